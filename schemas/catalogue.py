"""Every message module, imported: with this the registry is complete."""

from schemas import bus, decisions, emulation, jobs, network, nodes, training

MODULES = (jobs, nodes, network, training, decisions, emulation, bus)

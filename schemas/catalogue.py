"""Every message module, imported: with this the registry is complete."""

from schemas import bus, decisions, emulation, jobs, network, nodes, training, verification

MODULES = (jobs, nodes, network, training, verification, decisions, emulation, bus)

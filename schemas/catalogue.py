"""Every message module, imported: with this the registry is complete."""

from schemas import (
    appraisal,
    bus,
    decisions,
    emulation,
    jobs,
    measuring,
    network,
    nodes,
    shards,
    sites,
    training,
    verification,
)

MODULES = (jobs, nodes, measuring, network, training, shards, sites, verification, appraisal, decisions, emulation, bus)

"""Every message module, imported: with this the registry is complete."""

from schemas import (
    anchors,
    appraisal,
    bus,
    decisions,
    drills,
    emulation,
    health,
    jobs,
    measuring,
    members,
    network,
    nodes,
    shards,
    sites,
    training,
    verification,
)

MODULES = (
    jobs,
    nodes,
    measuring,
    network,
    health,
    training,
    anchors,
    shards,
    sites,
    verification,
    appraisal,
    decisions,
    emulation,
    drills,
    members,
    bus,
)

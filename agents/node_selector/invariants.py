"""What must hold of the node selector's state after every event."""

from collections.abc import Iterator

import msgspec

from agents.inputs import ProbeReturned
from agents.node_selector.fleet import Silence
from agents.node_selector.policy import quorum_of
from agents.node_selector.roster import right_beside
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import Job, NodeSelectorState
from schemas.health import DetectorWatching
from schemas.ids import JobId
from schemas.nodes import NodeHeartbeat
from schemas.training import ContributionReceived, StepTimed, TrainingProgress

MEASURES = (StepTimed, ContributionReceived, TrainingProgress)
"""What is measured of a job's nodes: it counts at the next choice, and changes no right and no roster by itself."""
OF_NO_RIGHT = (*MEASURES, DetectorWatching, ProbeReturned)
"""These, and how well it hears and who else watches: that decides of later silences, and changes nothing by itself."""


def may_break(event: msgspec.Struct, state: NodeSelectorState) -> bool:
    """Whether an input may have changed what `broken` looks at; most that is heard of nodes that were alive doesn't."""
    if isinstance(event, NodeHeartbeat):
        return event.node in state.joined
    if isinstance(event, Silence):
        return event.node not in state.nodes or not state.nodes[event.node].alive
    return not isinstance(event, OF_NO_RIGHT)


def broken(state: NodeSelectorState, settings: NodeSelectorSettings, kept: int) -> Iterator[str]:
    """Each invariant that doesn't hold, in words."""
    alive = sum(record.alive for record in state.nodes.values())
    for node, record in state.nodes.items():
        if record.alive and record.watched > record.due:
            yield f"{node}'s deadline is not looked at"
    if len(state.nodes) > max(settings.nodes_kept, alive + 1):
        yield f"{len(state.nodes)} nodes are remembered, {alive} of them alive"
    for table in (state.ended, state.unclaimed, state.forced):
        if len(table) > kept:
            yield f"a table has {len(table)} entries"
    if len(set(state.joined)) != len(state.joined) or not all(state.nodes[node].alive for node in state.joined):
        yield f"the list of who joined is {state.joined}"
    for name, job in state.jobs.items():
        yield from _broken_in(name, job, state, settings)


def _broken_in(name: JobId, job: Job, state: NodeSelectorState, settings: NodeSelectorSettings) -> Iterator[str]:
    if not set(job.members) <= set(state.nodes):
        yield f"{name} remembers members that are no nodes"
    if job.version == 0:
        return
    inside, out = set(job.nodes), {exclusion.node for exclusion in job.excluded}
    if len(inside) != len(job.nodes) or inside & out:
        yield f"{name}: a node is in the roster twice, or in and out"
    expected = min(settings.reducers, len(inside))
    if not set(job.reducers) <= inside or len(set(job.reducers)) != len(job.reducers) or len(job.reducers) != expected:
        yield f"{name}: reducers {job.reducers} of nodes {job.nodes}"
    if job.quorum != quorum_of(len(inside)):
        yield f"{name}: quorum {job.quorum} of {len(inside)}"
    if not all(exclusion.reason for exclusion in job.excluded):
        yield f"{name}: a node is out without a reason"
    for node in job.nodes:
        right = right_beside(state, job, node) if node in state.nodes else None
        if right is None or not right.eligible:
            yield f"{name}: {node} is in, but {right.reason if right is not None else 'unknown'}"
    short = len(inside) < job.request.min_nodes
    # Who is out with a reason may be idle or not: that is asked only where it makes a difference.
    outside = [node for node in state.nodes if node not in inside and (short or node not in out)]
    idle = [node for node in outside if node not in state.joined and right_beside(state, job, node).eligible]
    unexplained = [node for node in idle if node not in out]
    if unexplained:
        yield f"{name}: {unexplained} are out and it is nowhere said why"
    if short and idle:
        yield f"{name}: {len(inside)} nodes although {idle} could take part"

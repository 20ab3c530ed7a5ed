"""The fleet divided among jobs: what each measures of its nodes, who gets which, and why, in words.

A job alone has everything, whatever is written here.
"""

from collections.abc import Mapping
from statistics import median

import msgspec

from agents.node_selector.roster import entitled, few
from agents.node_selector.rules import NOBODY, limit_of
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.sharing import Claim, Table, Terms, divide
from agents.node_selector.state import Job, NodeRecord, NodeSelectorState
from agents.node_selector.useful import worth
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase
from schemas.nodes import ACCELERATION, NodeProfile

WEIGHED = 3
"""Rounds from which on what a node contributed says how much of its computing counts."""

LEAST_COUNTED = 0.05
"""Of a node's computing is taken to count: one that cost more than it brought lately may do better elsewhere."""


class Divided(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the fleet led to."""

    changed: frozenset[JobId] = frozenset()
    """Jobs that may have other nodes now."""
    words: str = ""
    """Who has how much; empty where there is nothing to divide."""

    def of(self, job: JobId) -> str:
        """What is to be said of it to a job."""
        return self.words if job in self.changed else ""


def describe(record: NodeRecord, profile: NodeProfile) -> None:
    """Note what a node that has come up says of its place and its speed; the latter counts until it is measured."""
    record.share = 1.0
    record.site = profile.site if profile.site_named else ""
    record.hint = (ACCELERATION if profile.accelerators else 1.0) / max(1.0, profile.slowdown)
    # On a CPU a job's process computes on one thread; jobs on one accelerator take turns.
    record.cores = 1 if profile.accelerators else max(1, profile.cpus)


def pace(state: NodeSelectorState, node: NodeId, share: float) -> None:
    """Note what part of its speed a node leaves to jobs."""
    if state.nodes[node].share != share:
        state.nodes[node].share = share
        _mix(state, node)


def _mix(state: NodeSelectorState, node: NodeId) -> None:
    """A node's jobs have more of it, or less, from now on."""
    for job in state.jobs.values():
        if node in job.members:
            job.members[node].mixed = True


def speed_alone(state: NodeSelectorState, node: NodeId, measured: float) -> float:
    """What a job would measure on a node that it had to itself, and whose owner didn't need it. Samples a second."""
    record = state.nodes[node]
    jobs = sum(node in job.nodes for job in state.jobs.values() if job.phase is not JobPhase.FINISHING)
    return measured * max(1.0, jobs / record.cores) / record.share


def share_out(state: NodeSelectorState, settings: NodeSelectorSettings, now: float, *, again: bool = False) -> Divided:
    """Divide the fleet, and note for each job which nodes others have (`Job.kept`).

    `again`: in the same review, once rosters have been drawn: what a job didn't take goes to others.
    """
    going = {name: job for name, job in state.jobs.items() if job.phase is not JobPhase.FINISHING}
    if len(state.jobs) < 2:
        state.shared_by = tuple(going)
        return Divided(changed=_note(state, {}))
    claims = [_claim(state, name, job, settings) for name, job in going.items()]
    early = now - state.shared_at < settings.share_seconds or any(map(_half_known, state.jobs.values()))
    settled = again or early
    terms = Terms(
        together=settings.jobs_together,
        crowd=max(settings.jobs_together, settings.jobs_crowded),
        margin=settings.share_margin,
        cores={node: record.cores for node, record in state.nodes.items()},
    )
    table = divide(claims, terms, settled=settled)
    if settled and tuple(table.has) != state.shared_by:
        table = divide(claims, terms)
    for node, jobs in table.tenants.items():
        if sum(node in claim.held for claim in claims) != len(jobs):
            _mix(state, node)
    if any(node not in table.has.get(claim.job, ()) for claim in claims for node in claim.held):
        state.shared_at = now
    state.shared_by = tuple(table.has)
    kept = {name: _kept(name, job, table, terms) for name, job in state.jobs.items()}
    wanting = {job for job, nodes in table.has.items() if not set(nodes) <= set(state.jobs[job].nodes)}
    return Divided(changed=_note(state, kept) | wanting, words=_words(table, state) if len(claims) > 1 else "")


def _claim(state: NodeSelectorState, name: JobId, job: Job, settings: NodeSelectorSettings) -> Claim:
    """What a job may have. Nodes that it leaves out by choice don't count, unless it needs them."""
    mine = [node for node, right in entitled(state, job).items() if right.eligible]
    mine.sort(
        key=lambda node: -job.reducers.index(node) if node in job.reducers else -len(state.nodes)
    )  # who leads goes last
    liked = [node for node in mine if job.members.get(node, NOBODY).out != "low"]
    rates = rates_of(state, job)
    request = job.request
    return Claim(
        job=name,
        weight=request.weight,
        least=request.min_nodes,
        most=limit_of(request, settings),
        rates={node: rates[node] for node in (liked if len(liked) >= request.min_nodes else mine)},
        pinned=frozenset(node for node in request.include if node in mine),
        held=job.nodes,
        waits=job.version == 0,
    )


def rates_of(state: NodeSelectorState, job: Job) -> dict[NodeId, float]:
    """Each living node's part of the fleet's speed for a job, 0 to 1, all together 1; of what its owner leaves."""
    alive = {node: record for node, record in state.nodes.items() if record.alive and not record.yielding}
    known, counted = _speeds(state, job), _counted(state, job)
    typical = median(counted.values()) if counted else 1.0
    speeds = {node: known[node] * counted.get(node, typical) * record.share for node, record in alive.items()}
    whole = sum(speeds.values())
    return {node: speed / whole for node, speed in speeds.items()}


def _counted(state: NodeSelectorState, job: Job) -> dict[NodeId, float]:
    """Part of what each node computes that counts in the end: what its link takes, comes late or is missed doesn't. As the
    job itself has seen it, else as others have; a link is a node's, whatever the job."""
    found: dict[NodeId, float] = {}
    for other in (job, *(other for other in state.jobs.values() if other is not job)):
        for node, member in other.members.items():
            use = worth(member)
            if node not in found and member.speed and use is not None and member.weighed >= WEIGHED:
                found[node] = min(1.0, max(LEAST_COUNTED, speed_alone(state, node, use) / member.speed))
    return found


def _speeds(state: NodeSelectorState, job: Job) -> dict[NodeId, float]:
    """Samples a second of each node: as the job measured it; else as another job did, brought to this one's scale by nodes
    that both measured; else by its description, likewise."""
    found = _measured(job)
    others = [(_measured(other), other) for other in state.jobs.values() if other is not job]
    others.sort(key=lambda entry: -len(found.keys() & entry[0].keys() if found else entry[0].keys()))
    for theirs, _ in others:
        _fill(found, theirs)
    _fill(found, {node: record.hint for node, record in state.nodes.items()}, anyhow=True)
    return found


def _half_known(job: Job) -> bool:
    """Whether a job has measured some of its nodes and not the others: what these are like is soon known better."""
    known = [node in job.members and job.members[node].speed is not None for node in job.nodes]
    return any(known) and not all(known)


def _measured(job: Job) -> dict[NodeId, float]:
    return {node: member.speed for node, member in job.members.items() if member.speed}


def _fill(found: dict[NodeId, float], theirs: Mapping[NodeId, float], *, anyhow: bool = False) -> None:
    """Put in what is missing, in proportion to the nodes that are in both. Where none is, nothing can be said."""
    both = [found[node] / speed for node, speed in theirs.items() if node in found]
    if both or anyhow or not found:
        scale = median(both) if both else 1.0
        found.update({node: scale * speed for node, speed in theirs.items() if node not in found})


def _kept(name: JobId, job: Job, table: Table, terms: Terms) -> dict[NodeId, str]:
    """The nodes that others have, and a job thus hasn't."""
    mine = table.has.get(name, {}) if job.phase is not JobPhase.FINISHING else dict.fromkeys(job.nodes)
    taken = {node: jobs for node, jobs in table.tenants.items() if len(jobs) >= terms.together and node not in mine}
    return {
        node: f"{few(jobs)} {'has' if len(jobs) == 1 else 'have'} it: jobs share the fleet" for node, jobs in taken.items()
    }


def _note(state: NodeSelectorState, kept: Mapping[JobId, dict[NodeId, str]]) -> frozenset[JobId]:
    """Remember what is kept from whom; gives whom that is news for."""
    news = frozenset(name for name, job in state.jobs.items() if job.kept != kept.get(name, {}))
    for name in news:
        state.jobs[name].kept = kept.get(name, {})
    return news


def _words(table: Table, state: NodeSelectorState) -> str:
    """`fair shares: job-a has 3 of 5 nodes, 61 % of their speed; job-b 2, 39 %`."""
    alive = sum(record.alive and not record.yielding for record in state.nodes.values())
    parts: list[str] = []
    for job, nodes in table.has.items():
        weight = table.claims[job].weight
        how = f"has {len(nodes)} of {alive} nodes" if not parts else f"{len(nodes)}"
        what = f", {100 * table.speed[job]:.0f} %" + (" of their speed" if not parts else "")
        parts.append(f"{job} {how}{what}" + (f" (weight {weight:g})" if weight != 1 else ""))
    return "fair shares: " + few(parts, "; ")

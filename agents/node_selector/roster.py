"""A job's roster, drawn up from what is known: who may take part, whom the policy chooses, who reduces."""

from collections.abc import Iterable

import msgspec

from agents.node_selector import sites, useful
from agents.node_selector.policy import UNKNOWN, line_level, quorum_of, reducer_merit, reliability, turn_after
from agents.node_selector.reducers import Standing, order_helpers, order_reducers
from agents.node_selector.rules import NOBODY, relative_speeds, rule_for, scores
from agents.node_selector.selection import Candidate, Selection, select
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import Force, Job, Member, NodeRecord, NodeSelectorState
from schemas.ids import NodeId
from schemas.network import LinkQuality
from schemas.shards import pieces_of
from schemas.sites import why_alone
from schemas.training import Exclusion

BROKEN = (LinkQuality.CRITICAL, LinkQuality.OFFLINE)
NOBODY_LEFT = "nobody is left; waiting"


class Right(msgspec.Struct, frozen=True):
    """Whether a node may take part in a job at all, before any choice."""

    eligible: bool
    forced: bool = False
    """A person or the job's request wants it in."""
    reason: str = ""
    """Why it may not."""
    confined: bool = False
    """Only a quarantine, or the healer, keeps it out."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A roster as it should be now."""

    nodes: tuple[NodeId, ...]
    reducers: tuple[NodeId, ...]
    helpers: tuple[NodeId, ...]
    sites: tuple[tuple[NodeId, ...], ...]
    alone: str
    """Why nodes of one site send each for themselves; empty: they don't, or none are."""
    quorum: int
    excluded: tuple[Exclusion, ...]
    selection: Selection

    def differs_from(self, job: Job, *, reasons: bool) -> bool:
        """Whether the job's present roster says something else; `reasons`: also if only of the nodes that are out."""
        now, before = (self.nodes, self.reducers, self.helpers), (job.nodes, job.reducers, job.helpers)
        who = (*now, self.sites) != (*before, job.sites)
        return who or (reasons and self.excluded != job.excluded)


def right_of(job: Job, node: NodeId, record: NodeRecord, force: Force | None) -> Right:
    """A node's right to take part. A person's word counts more than the request's, and that more than a quarantine."""
    barred = _barred(job, node, record, force)
    if barred:
        return Right(False, reason=barred)
    if force is not None or node in job.request.include:
        return Right(True, forced=True)
    if record.conduct.quarantined:
        return Right(False, reason=f"in quarantine, then on probation: {record.conduct.why}", confined=True)
    held = held_by(record, job.members.get(node))
    return Right(not held, reason=held, confined=bool(held))


def held_by(record: NodeRecord, member: Member | None) -> str:
    """Why the healer keeps a node out, of a job or of all; empty where it doesn't."""
    return record.drained or (member.moved if member is not None else "")


def _barred(job: Job, node: NodeId, record: NodeRecord, force: Force | None) -> str:
    """What keeps a node out for certain; empty where nothing does."""
    if not record.alive:
        return record.gone
    if record.yielding:  # its owner's word goes before everybody else's
        return record.yielding
    if force is not None and force.do == "exclude":
        return f"kept out by force: {force.reason}"
    if force is None and node in job.request.exclude:
        return "the job's request leaves it out"
    return job.members.get(node, NOBODY).failed


def led_badly(state: NodeSelectorState, job: Job) -> bool:
    """Whether the first reducer's link is so bad that it should not wait for a time of choice."""
    return bool(job.reducers) and state.nodes[job.reducers[0]].quality in BROKEN


def entitled(state: NodeSelectorState, job: Job) -> dict[NodeId, Right]:
    """Everybody's right to take part in a job, were it the only one."""
    return {node: right_of(job, node, record, state.forced.get(node)) for node, record in state.nodes.items()}


def right_beside(state: NodeSelectorState, job: Job, node: NodeId) -> Right:
    """One node's right, as `rights` gives it for all."""
    right = right_of(job, node, state.nodes[node], state.forced.get(node))
    why = job.kept.get(node) if right.eligible else None
    return right if why is None else Right(False, reason=why)


def rights(state: NodeSelectorState, job: Job) -> dict[NodeId, Right]:
    """Everybody's right to take part in a job beside the other jobs."""
    fair = entitled(state, job)
    return fair | {node: Right(False, reason=why) for node, why in job.kept.items() if node in fair and fair[node].eligible}


def draw_up(
    state: NodeSelectorState,
    job: Job,
    settings: NodeSelectorSettings,
    *,
    choosing: bool,
    reorder: bool,
    fair: dict[NodeId, Right],
) -> Draft:
    """The roster that the job should have. `fair`: everybody's rights; `choosing`: by choice, too; `reorder`: the reducers
    anew. The first roster is always a free choice."""
    eligible = _eligible(state, fair)
    found = scores(job, eligible, settings)
    # A choice leaves the present quorum, so that a round opened under the old roster still closes under the new one.
    floor = max(job.request.min_nodes, job.quorum if choosing and job.version else 1)
    rule = rule_for(job, found, floor, settings)
    eager = useful.promising(job, found, settings) if job.request.selection == "useful" else frozenset()
    candidates = [
        _candidate(job, node, found[node], forced=fair[node].forced, eager=node in eager, settings=settings)
        for node in eligible
    ]
    selection = select(candidates, rule, choosing=choosing)
    standings = _standings(state, job, selection.chosen, settings)
    reducers = order_reducers(
        standings,
        job.reducers,
        limit=settings.reducers,
        margin=settings.reducer_margin,
        choosing=choosing or reorder,
    )
    return Draft(
        nodes=selection.chosen,
        reducers=reducers,
        helpers=_helpers(state, job, standings, reducers, choosing=choosing or reorder),
        sites=_sites(state, job, selection.chosen, reducers, choosing=choosing or reorder),
        alone=_alone(state, job, selection.chosen),
        quorum=quorum_of(len(selection.chosen)),
        excluded=tuple(_exclusions(job, state, fair, selection)),
        selection=selection,
    )


def _eligible(state: NodeSelectorState, fair: dict[NodeId, Right]) -> dict[NodeId, NodeRecord]:
    return {node: state.nodes[node] for node, right in fair.items() if right.eligible}


def _candidate(
    job: Job, node: NodeId, score: float | None, *, forced: bool, eager: bool, settings: NodeSelectorSettings
) -> Candidate:
    member = job.members.get(node, NOBODY)
    rounds_out = job.round - member.out_at if member.out else 0
    due = bool(member.out) and rounds_out >= turn_after(member.times_out, settings)
    return Candidate(
        node=node,
        score=score,
        member=node in job.nodes,
        forced=forced,
        out=member.out,
        why=member.out_reason,
        low_rounds=member.low_rounds,
        rounds_out=rounds_out,
        turn_due=due or (eager and member.out == "full"),
        trial=job.round < member.trial_until,
        eager=eager,
        curiosity=useful.curiosity(job, node, score) if job.request.selection == "useful" else 0.0,
    )


def _exclusions(job: Job, state: NodeSelectorState, fair: dict[NodeId, Right], selection: Selection) -> Iterable[Exclusion]:
    """Every node that is known or asked for and not in, with the reason."""
    for node, right in fair.items():
        if not right.eligible:
            yield Exclusion(node=node, reason=right.reason)
        elif node in selection.out:
            yield Exclusion(node=node, reason=selection.out[node].reason)
    for node in job.request.include:
        if node not in state.nodes:
            yield Exclusion(node=node, reason="the job's request asks for it, but nothing was ever heard of it")


def _helpers(
    state: NodeSelectorState, job: Job, standings: list[Standing], reducers: tuple[NodeId, ...], *, choosing: bool
) -> tuple[NodeId, ...]:
    """Who may reduce with the first of the reducers, where the job's vectors are cut at all; changes only by choice."""
    if pieces_of(job.request, job.parameters) == 1 or not reducers:
        return ()
    if job.helpers and not choosing:
        chosen = {standing.node for standing in standings}
        return tuple(node for node in job.helpers if node in chosen)
    grades = {standing.node: state.nodes[standing.node].quality for standing in standings}
    return order_helpers(standings, grades, reducers[0])


def _sites(
    state: NodeSelectorState, job: Job, chosen: tuple[NodeId, ...], reducers: tuple[NodeId, ...], *, choosing: bool
) -> tuple[tuple[NodeId, ...], ...]:
    """Who averages inside a site before one of them sends, where the job's rounds allow that."""
    if why_alone(job.request, job.parameters):
        return ()
    records = {node: state.nodes[node] for node in chosen if job.members.get(node, NOBODY).ready}
    best = max((record.rate for record in records.values() if record.rate is not None), default=None)
    upload = {
        node: (UNKNOWN if record.link is None else record.link / 100) * line_level(record.rate, best)
        for node, record in records.items()
    }
    places = {node: record.site for node, record in records.items()}
    return sites.group(places, upload, job.sites, reducers[0] if reducers else "", choosing=choosing)


def _alone(state: NodeSelectorState, job: Job, chosen: tuple[NodeId, ...]) -> str:
    named = [site for node in chosen if (site := state.nodes[node].site)]
    return why_alone(job.request, job.parameters) if len(set(named)) < len(named) else ""


def _standings(
    state: NodeSelectorState, job: Job, chosen: tuple[NodeId, ...], settings: NodeSelectorSettings
) -> list[Standing]:
    records = {node: state.nodes[node] for node in chosen}
    speeds = relative_speeds(job, records)
    leads = [other.reducers[0] for other in state.jobs.values() if other is not job and other.reducers]
    ready = {node: job.members.get(node, NOBODY).ready for node in chosen}
    best = max((record.rate for record in records.values() if record.rate is not None), default=None)
    standings = []
    for node, record in records.items():
        conduct = record.conduct
        score = UNKNOWN if record.link is None else record.link / 100
        merit = reducer_merit(
            score * line_level(record.rate, best),
            speeds[node],
            reliability(conduct.successes, conduct.attempts, settings),
            leads.count(node),
            settings,
        )
        fit = record.quality not in BROKEN and not record.demoted and not conduct.quarantined and conduct.probation == 0
        standings.append(Standing(node=node, merit=merit, fit=fit, ready=ready[node]))
    return standings


def adopt(job: Job, draft: Draft, settings: NodeSelectorSettings, *, chosen_now: bool) -> str:
    """Make a draft the job's roster; gives, in words, what was decided by choice."""
    words: list[str] = []
    for node, left in draft.selection.out.items():
        member = job.members.setdefault(node, Member())
        if member.out != left.kind:
            words.append(f"{node} is left out: {left.reason}")
            member.out_at = job.round
            member.times_out += 1
            member.low_rounds = 0
            member.trial_until = 0
        member.out, member.out_reason = left.kind, left.reason
    for node in draft.nodes:
        member = job.members.setdefault(node, Member())
        if node in draft.selection.turns:
            words.append(f"{node} gets a turn again after {job.round - member.out_at} rounds")
            member.trial_until = job.round + settings.trial_rounds
        elif member.out == "low":
            needed = "without it there would be too few nodes" if node in draft.selection.needed else "its score is back"
            words.append(f"{node} is back: {needed}")
        elif member.out == "full" and node not in job.nodes:
            words.append(f"{node} takes a free place")
        member.out, member.out_reason = "", ""
    if draft.reducers[:1] != job.reducers[:1] and draft.reducers and job.reducers:
        words.append(f"{draft.reducers[0]} reduces now")
    if draft.helpers != job.helpers and len(draft.helpers) > 1:
        words.append(f"fit to reduce together: {few(draft.helpers)}")
    words += _told_of_sites(job, draft)
    if chosen_now:
        job.chose_at = job.round
    job.version += 1
    job.nodes, job.reducers, job.helpers, job.quorum = draft.nodes, draft.reducers, draft.helpers, draft.quorum
    job.excluded, job.sites = draft.excluded, draft.sites
    return few(words, "; ")


def _told_of_sites(job: Job, draft: Draft) -> list[str]:
    """What changes about the sites, in words."""
    if draft.alone and not job.version:
        return [f"nodes of one site send each for themselves: {draft.alone}"]
    before = {nodes[0]: nodes for nodes in job.sites}
    return [
        f"{few(nodes)} average among themselves, {nodes[0]} sends" for nodes in draft.sites if before.get(nodes[0]) != nodes
    ]


def reason_of(draft: Draft, because: str, chosen: str, min_nodes: int) -> str:
    """A roster's reason in words: the occasion, the choices, and what is amiss."""
    clauses = [] if draft.nodes else [NOBODY_LEFT]
    clauses += [clause for clause in (because, chosen) if clause]
    if 0 < len(draft.nodes) < min_nodes:
        clauses.append(f"goes on with {len(draft.nodes)} of at least {min_nodes} nodes")
    return "; ".join(clauses) or "the same nodes; what keeps the others out has changed"


def count_low_rounds(state: NodeSelectorState, job: Job, settings: NodeSelectorSettings, fair: dict[NodeId, Right]) -> None:
    """After a round: who of the roster is under the threshold, for how many rounds in a row."""
    found = scores(job, _eligible(state, fair), settings)
    rule = rule_for(job, found, 1, settings)
    for node in job.nodes:
        if node not in found:
            continue
        member = job.members.setdefault(node, Member())
        score = found[node]
        under = score is not None and rule.threshold is not None and score < rule.threshold
        member.low_rounds = min(member.low_rounds + 1, 10 * rule.patience) if under else 0


def few(words: Iterable[str], mark: str = ", ") -> str:
    """Names or clauses for a sentence: all of a few, the first ones of many."""
    known = list(words)
    return mark.join(known) if len(known) <= 5 else f"{mark.join(known[:5])}{mark}and {len(known) - 5} more"

"""A job's report out of what was said while it ran: from history, or from messages that someone kept."""

from collections.abc import Iterable

import msgspec

from runners.report_adaptations import adaptations
from runners.report_faults import faults
from runners.report_schema import GradeReport, NodeReport, Report, RoundReport, ValidationReport
from runners.report_timeline import Timeline
from schemas.anchors import DigestMismatch
from schemas.appraisal import NodesAppraised
from schemas.bus import BusDisturbed
from schemas.decisions import (
    AdaptationCost,
    AgentStarted,
    ForceNode,
    ForesightJudged,
    InputFailed,
    NodeJoined,
    NodeLost,
    NodeQuarantined,
    NodeReleased,
    RolledBack,
)
from schemas.emulation import EmulatedLinkChanged
from schemas.errors import ShoalError
from schemas.healing import Healed, HealingFailed, HealingOrdered
from schemas.jobs import JobState, ModelStored
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeLeaving, NodeProfile, WorkFailed
from schemas.training import (
    Assignment,
    AverageOffered,
    ContributionOffered,
    ContributionRefused,
    Roster,
    RoundClosed,
    RoundOpened,
    Tuning,
    Validated,
)
from schemas.verification import ArithmeticDoubted
from schemas.wire import Message

TYPES: tuple[type[Message], ...] = (
    AdaptationCost,
    AgentStarted,
    ArithmeticDoubted,
    Assignment,
    AverageOffered,
    BusDisturbed,
    ContributionOffered,
    ContributionRefused,
    DigestMismatch,
    EmulatedLinkChanged,
    ForceNode,
    ForesightJudged,
    Healed,
    HealingFailed,
    HealingOrdered,
    InputFailed,
    JobState,
    LinkQualityChanged,
    ModelStored,
    NodeJoined,
    NodeLeaving,
    NodeLost,
    NodeProfile,
    NodeQuarantined,
    NodeReleased,
    NodesAppraised,
    RolledBack,
    Roster,
    RoundClosed,
    RoundOpened,
    Tuning,
    Validated,
    WorkFailed,
)
"""What a report is made of."""


class NothingKnown(ShoalError):
    """There is nothing to report of a job. Attribute: `job`."""

    def __init__(self, job: str) -> None:
        super().__init__(f"nothing is known of job {job!r}: `shoal jobs` lists those that are")
        self.job = job


def build_report(job: str, messages: Iterable[Message]) -> Report:
    """The report of a job.

    Args:
        job: its id.
        messages: what was said by it and, in its time, of nodes, links and agents; profiles and link qualities of
            before, too. In any order, with or without others' messages; duplicates count once.

    Raises:
        NothingKnown: the job's state is not among them.
    """
    line = Timeline(job, messages)
    state = line.last_state
    if state is None:
        raise NothingKnown(job)
    closed = line.closed
    tests = {test.round: test for test in reversed(list(line.own(Validated)))}
    validation = [tests[number] for number in sorted(tests)]
    model = next((stored for stored in line.own(ModelStored) if stored.final), None)
    costs = list(line.own(AdaptationCost))
    end = state.at if state.state.ended else line.messages[-1].at
    opened = [opening.at for opening in line.own(RoundOpened)]
    training = closed[-1].at - min(opened, default=closed[0].at - closed[0].seconds) if closed else 0.0
    nodes = _nodes(line)
    return Report(
        job=job,
        workload=state.request.workload,
        state=state.state.value,
        reason=state.reason,
        rounds=len(closed),
        rounds_asked=state.rounds,
        loss_start=closed[0].loss if closed else None,
        loss_end=closed[-1].loss if closed else None,
        validation_start=validation[0].loss if validation else None,
        validation_end=validation[-1].loss if validation else None,
        samples=sum(node.samples for node in nodes),
        wall_seconds=round(end - line.begin, 3),
        training_seconds=round(training, 3),
        seconds_per_round=round(training / len(closed), 3) if closed else 0.0,
        adaptation_share=costs[-1].share if costs else 0.0,
        emulated=_emulated(nodes),
        model=model.name if model else "",
        model_digest=model.digest if model else "",
        nodes=nodes,
        by_round=[_round(line, one) for one in closed],
        validation=[ValidationReport(round=v.round, loss=v.loss, at=line.since(v.at)) for v in validation],
        adaptations=adaptations(line),
        faults=faults(line),
    )


def as_json(report: Report) -> bytes:
    """The report as it is written to `report.json`: indented, for people to read."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def from_json(data: bytes) -> Report:
    """A report that was written. Raises `msgspec.DecodeError` for anything else."""
    return msgspec.json.decode(data, type=Report)


def _round(line: Timeline, closed: RoundClosed) -> RoundReport:
    return RoundReport(
        round=closed.round,
        loss=closed.loss,
        at=line.since(closed.at),
        seconds=round(closed.seconds, 3),
        samples=closed.samples,
        nodes=tuple(sorted({part.node for part in closed.contributions})),
        late=sum(part.late > 0 for part in closed.contributions),
        missing=closed.missing,
        reducer=closed.reducer,
        term=closed.term,
    )


def _nodes(line: Timeline) -> list[NodeReport]:
    """Every node that was ever in the roster or contributed."""
    names = {node for roster in line.own(Roster) for node in roster.nodes}
    names |= {part.node for closed in line.closed for part in closed.contributions}
    nodes = {name: NodeReport(node=name) for name in sorted(names)}
    for profile in line.of(NodeProfile):
        node = nodes.get(profile.node)
        if node is not None:
            node.host, node.emulated_link = profile.host, profile.emulated_link
            node.slowdown, node.step_time_ms = profile.slowdown, profile.step_time_ms
            node.accelerators = tuple(accelerator.name for accelerator in profile.accelerators)
    _count_rounds(line, nodes)
    _count_offers(line, nodes)
    for appraised in line.own(NodesAppraised):  # the last one that speaks of a node counts
        for value in appraised.nodes:
            if value.node in nodes:
                nodes[value.node].value = value
    for failed in line.own(WorkFailed):
        if failed.node in nodes:
            nodes[failed.node].failures += 1
    for change in line.of(LinkQualityChanged):
        if change.node in nodes:
            nodes[change.node].quality.append(_grade(line, change))
    for node in nodes.values():
        before = [grade for grade in node.quality if grade.at < 0]
        node.quality = before[-1:] + [grade for grade in node.quality if grade.at >= 0]
    return list(nodes.values())


def _count_rounds(line: Timeline, nodes: dict[str, NodeReport]) -> None:
    for closed in line.closed:
        for part in closed.contributions:
            node = nodes[part.node]
            node.rounds += 1
            node.samples += part.samples
            node.late += part.late > 0
        for name in closed.missing:
            if name in nodes:
                nodes[name].missed += 1


def _count_offers(line: Timeline, nodes: dict[str, NodeReport]) -> None:
    """What was sent and how fast it was computed; a contribution that was offered twice counts once."""
    seconds: dict[str, float] = {}
    work: dict[tuple[str, int], tuple[int, float]] = {}
    offered = {(offer.node, offer.round): offer for offer in line.own(ContributionOffered)}
    for (name, _), offer in sorted(offered.items()):
        if name in nodes:
            nodes[name].bytes_up += offer.size
        if not offer.members:
            work[name, offer.round] = (offer.steps, offer.compute_seconds)
        for one in offer.members:  # a site's speaker sends for them
            work[one.node, offer.round] = (one.steps, one.compute_seconds)
    for (name, _), (steps, spent) in work.items():
        if name in nodes:
            nodes[name].steps += steps
            seconds[name] = seconds.get(name, 0.0) + spent
    for average in {(a.node, a.round, a.term): a for a in line.own(AverageOffered)}.values():
        if average.node in nodes:
            nodes[average.node].bytes_up += average.average.size
    for name, spent in seconds.items():
        if nodes[name].steps:
            nodes[name].mean_step_ms = round(1000 * spent / nodes[name].steps, 3)


def _grade(line: Timeline, change: LinkQualityChanged) -> GradeReport:
    return GradeReport(
        round=line.round_at(change.at),
        at=line.since(change.at),
        quality=change.quality.value,
        score=round(change.score, 1),
        latency_ms=round(change.latency_ms, 1),
        loss=round(change.loss, 4),
    )


def _emulated(nodes: list[NodeReport]) -> list[str]:
    said = []
    for node in nodes:
        parts = []
        if node.emulated_link:
            parts.append(f"link {node.emulated_link}")
        if node.slowdown != 1.0:
            parts.append(f"{node.slowdown:g} times slower")
        if node.step_time_ms:
            parts.append(f"steps of at least {node.step_time_ms:g} ms")
        if parts:
            said.append(f"{node.node}: {', '.join(parts)}")
    return said

"""What a job's events teach about its nodes: speed, efficiency, successes and failures."""

from collections.abc import Callable

from agents.node_selector import conduct, useful
from agents.node_selector.policy import efficiency, smoothed
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import Job, Member, NodeRecord, NodeSelectorState
from schemas.ids import NodeId
from schemas.training import ContributionReceived, RoundClosed, StepTimed


def learn_steps(member: Member, event: StepTimed, settings: NodeSelectorSettings, alone: Callable[[float], float]) -> None:
    """Seconds and samples that a node reports: its speed, and what it computed of the present round. `alone` gives what the
    speed would be with the node to itself."""
    member.busy = True
    mixed, member.mixed = member.mixed, False
    if event.seconds > 0 and event.samples > 0:
        member.compute += event.seconds
    if event.seconds > 0 and event.samples > 0 and not mixed:
        member.speed = smoothed(member.speed, alone(event.samples / event.seconds), settings.smoothing)


def learn_upload(record: NodeRecord, event: ContributionReceived, settings: NodeSelectorSettings) -> None:
    """What a node's line carried; the reducer's own difference went over none."""
    if event.seconds > 0 and event.carried > 0:
        record.rate = smoothed(record.rate, event.carried / event.seconds, settings.smoothing)


def close_round(state: NodeSelectorState, job: Job, event: RoundClosed, settings: NodeSelectorSettings) -> list[NodeId]:
    """Take a closed round in; gives the nodes that failed in it.

    Whoever is listed contributed, late or not. Only those who were expected, live, and were ready can have failed: the
    dead are the business of liveness, and a process that crashed was counted when it did.
    """
    job.round = event.round
    late: dict[NodeId, int] = {}
    for contribution in event.contributions:
        late[contribution.node] = max(contribution.late, late.get(contribution.node, 0))
    for node, rounds in late.items():
        if node in state.nodes:
            conduct.succeed(state.nodes[node].conduct, settings, late=rounds)
            job.members.setdefault(node, Member()).ready = True
    failed = []
    for node in event.missing:
        member = job.members.get(node)
        if node in late or member is None or not member.ready or node not in job.nodes:
            continue
        conduct.fail(state.nodes[node].conduct, settings, strike=conduct.SLOW if member.busy else 1.0)
        failed.append(node)
    useful.learn(job, event)
    for member in job.members.values():
        if member.compute > 0:
            waiting = max(event.seconds - member.compute, 0.0)
            value = efficiency(member.compute, waiting)
            member.efficiency = smoothed(member.efficiency, value, settings.smoothing)
        member.compute, member.busy = 0.0, False
    return failed

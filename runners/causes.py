"""The chain of causes behind an event: with no central call graph this is how a decision is explained."""

from collections.abc import Iterable, Sequence

from schemas.anchors import DigestMismatch
from schemas.decisions import (
    ForceNode,
    ForesightJudged,
    NodeJoined,
    NodeLost,
    NodeQuarantined,
    NodeReleased,
    RolledBack,
)
from schemas.healing import AgentRestartOrdered, Healed, HealingFailed, HealingOrdered, HealingWithheld
from schemas.health import WorkStalled
from schemas.jobs import JobPhase, JobState
from schemas.network import LinkForecast, LinkQualityChanged, NetworkAlert
from schemas.nodes import NodeYielding, PauseNode, WorkFailed
from schemas.prediction import FaultForeseen
from schemas.training import Assignment, ContributionRefused, Roster, Tuning
from schemas.verification import ArithmeticDoubted
from schemas.wire import Message

DECISIONS: tuple[type[Message], ...] = (
    JobState,
    Roster,
    Assignment,
    Tuning,
    LinkQualityChanged,
    LinkForecast,
    NetworkAlert,
    NodeJoined,
    NodeLost,
    NodeQuarantined,
    NodeReleased,
    ForceNode,
    NodeYielding,
    PauseNode,
    RolledBack,
    ForesightJudged,
    WorkStalled,
    WorkFailed,
    ContributionRefused,
    DigestMismatch,
    ArithmeticDoubted,
    FaultForeseen,
    HealingOrdered,
    HealingWithheld,
    Healed,
    HealingFailed,
    AgentRestartOrdered,
)
LONGEST = 32  # links of a chain that are shown: longer ones are a loop or nobody reads them


def chain_of(events: Sequence[Message], event_id: str) -> list[Message]:
    """An event and what led to it, nearest cause first, as far back as it is stored."""
    by_id = {event.id: event for event in events if event.id}
    chain: list[Message] = []
    seen: set[str] = set()
    while event_id in by_id and event_id not in seen and len(chain) < LONGEST:
        seen.add(event_id)
        chain.append(by_id[event_id])
        event_id = by_id[event_id].cause
    return chain


def about(event: Message, name: str) -> bool:
    """Whether an event concerns a job or a node of that name."""
    for field in ("job", "node", "suspect", "contributor", "reducer", "target"):
        if getattr(event, field, None) == name:
            return True
    if isinstance(event, Roster):
        return any(left_out.node == name for left_out in event.excluded) or name in event.nodes
    return isinstance(event, Assignment) and name in event.shares


def is_decision(event: Message) -> bool:
    """Whether somebody decided something; a running job's state also follows its rounds, which is no decision."""
    if isinstance(event, JobState):
        return event.state is not JobPhase.RUNNING or event.round == 0
    return isinstance(event, DECISIONS)


def chains_about(events: Sequence[Message], name: str, last: int) -> list[list[Message]]:
    """The last decisions about a job or a node, newest first, each with what led to it."""
    decisions = [event for event in events if is_decision(event) and about(event, name)]
    return [chain_of(events, event.id) for event in _latest(decisions, last)]


def _latest(events: Iterable[Message], last: int) -> list[Message]:
    return sorted(events, key=lambda event: event.at)[-last:][::-1]

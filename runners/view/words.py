"""What an event says to a person: who speaks, in which words, and whether something went wrong."""

from typing import NamedTuple

from schemas.anchors import CaughtUp, DigestMismatch
from schemas.appraisal import NodesAppraised
from schemas.bus import BusDisturbed
from schemas.decisions import (
    AgentStarted,
    ForceNode,
    ForesightJudged,
    InputFailed,
    MessagesDropped,
    NodeJoined,
    NodeLost,
    NodeQuarantined,
    NodeReleased,
    RolledBack,
)
from schemas.drills import DrillMark
from schemas.emulation import EmulatedLinkChanged
from schemas.healing import AgentRestartOrdered, Healed, HealingFailed, HealingOrdered, HealingWithheld
from schemas.health import FigureChanged, NodeHealth, WorkStalled
from schemas.jobs import JobRefused, JobState, ModelStored
from schemas.members import AuditEntry
from schemas.network import LinkQualityChanged, NetworkAlert
from schemas.nodes import NodeLeaving, NodeMended, NodeYielding, PauseNode, WorkFailed
from schemas.prediction import FaultForeseen, PredictionJudged, PredictorLearned
from schemas.sites import SitePaced, SiteParted
from schemas.training import Assignment, ContributionRefused, NodeRefused, Roster, Tuning, Validated
from schemas.verification import ArithmeticDoubted
from schemas.wire import Message
from schemas.writers import writer_of


class Said(NamedTuple):
    """A line for a person."""

    who: str
    text: str
    fault: bool = False


def said_by(event: Message) -> Said | None:
    """The line that an event deserves; None for those that only move figures, and for the opening and closing of rounds."""
    match event:
        case JobState():
            return Said("job_desk", f"{event.job} {event.state.value}: {event.reason}", event.state.value == "failed")
        case JobRefused():
            return Said("job_desk", f"{event.job} refused at {event.field}: {event.reason}", True)
        case Roster() | Assignment() | Tuning() | RolledBack() | NodesAppraised() | ForesightJudged():
            return Said(writer_of(type(event)), event.reason)
        case NodeJoined() | NodeReleased() | LinkQualityChanged() | CaughtUp() | NodeLeaving() | NodeYielding():
            return Said(event.node, event.reason)
        case NodeLost() | NodeQuarantined() | WorkFailed() | WorkStalled():
            return Said(event.node, event.reason, True)
        case ForceNode():
            return Said(event.node, f"{event.do} on request: {event.reason}")
        case NodeHealth(state="suspect"):  # of its other states the selector's words tell
            return Said(event.node, f"suspected: {event.reason}", True)
        case FigureChanged():
            return Said(event.node, event.reason, event.kind != "usual")
        case _:
            return _rarer(event)


def _rarer(event: Message) -> Said | None:
    match event:
        case NodeMended():
            return Said(event.node, f"may be tried again: {event.reason}")
        case PauseNode():
            return Said(event.node, f"{'pause' if event.pause else 'go on'} on request: {event.reason}")
        case HealingOrdered() | HealingWithheld():
            return Said(event.node, event.reason)
        case Healed() | HealingFailed():
            return Said(event.node or event.target or "healer", event.reason, isinstance(event, HealingFailed))
        case FaultForeseen():
            return Said(event.node, event.reason, event.expected)
        case PredictionJudged() | PredictorLearned():
            return Said("predictor", event.reason)
        case AgentRestartOrdered():
            return Said(event.target, event.reason, True)
        case AuditEntry():
            return Said(event.by, f"{event.act} {event.target}: {event.reason}")
        case _:
            return _rarest(event)


def _rarest(event: Message) -> Said | None:
    match event:
        case NetworkAlert():
            return Said(event.node, event.reason, event.kind != "recovered")
        case EmulatedLinkChanged() | DrillMark():
            return _on_purpose(event)
        case ContributionRefused():
            return Said(event.contributor, f"its contribution to round {event.round} is refused: {event.reason}", True)
        case NodeRefused():
            return Said(event.suspect, f"can't take part: {event.reason}", True)
        case DigestMismatch():
            return Said(event.suspect, f"its parameters of version {event.version} are not those of {event.node}", True)
        case ArithmeticDoubted():
            return Said(event.suspect, event.reason, True)
        case SitePaced() | SiteParted():
            alone = "" if isinstance(event, SitePaced) else "'s nodes send one by one"
            return Said(event.node, f"its site{alone}: {event.reason}")
        case AgentStarted(resumed=True):
            return Said(event.agent, f"runs again after {event.down_seconds:.1f} s, with its memory", True)
        case Validated():
            return Said(event.node, f"held-out loss {event.loss:.4f} after round {event.round}")
        case ModelStored(final=True):
            return Said(event.node, f"stored the model, {event.size / 1e6:.1f} MB")
    return _of_the_bus(event)


def _of_the_bus(event: Message) -> Said | None:
    """What was lost, or set aside."""
    match event:
        case MessagesDropped():
            return Said(event.agent, f"dropped {event.count} messages: {event.reason}", True)
        case InputFailed():
            return Said(event.agent, f"set {event.input} aside: {event.reason}", True)
        case BusDisturbed(kind="reconnected"):  # all say so at about the same time: whole seconds make it one line or two
            return Said("bus", f"the server is in reach again after {event.seconds:.0f} s", True)
        case BusDisturbed(kind="slow_consumer"):
            return Said(event.source or "bus", event.reason, True)
    return None


def _on_purpose(event: EmulatedLinkChanged | DrillMark) -> Said | None:
    if isinstance(event, EmulatedLinkChanged):
        change = event.reason or event.do
        return Said(event.node, f"emulated link, on order: {change} ({event.profile})", True)
    return Said("drill", f"{event.part} {event.reason}", True) if event.reason else None


def emulation(link: str, slowdown: float, step_ms: float) -> str:
    """What is emulated about a node, short: `poor, 2x slower, 30 ms`; empty for a real machine."""
    parts = (
        link.partition(" ")[0],
        f"{slowdown:g}x slower" if slowdown != 1 else "",
        f"{step_ms:g} ms" if step_ms else "",
    )
    return ", ".join(part for part in parts if part)

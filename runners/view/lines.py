"""Events as plain lines, for pipes, logs and terminals that can't be drawn on."""

from collections.abc import Callable

from schemas.decisions import NodeJoined, NodeLost, NodeQuarantined, NodeReleased, RolledBack
from schemas.emulation import EmulatedLinkChanged
from schemas.jobs import JobState
from schemas.network import LinkQualityChanged, NetworkAlert
from schemas.nodes import WorkFailed
from schemas.training import Assignment, DigestMismatch, Roster, RoundClosed, RoundOpened, Tuning, Validated
from schemas.wire import Message


class Lines:
    """Prints a line for each event that deserves one, and nothing twice."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: dict[str, str] = {}
        self._round = 0
        self._term = 0

    def see(self, event: Message) -> None:
        """Take one event in."""
        text = self._text(event)
        if text is None:
            return
        topic = f"{type(event).__name__}/{getattr(event, 'node', '')}"
        if self._said.get(topic) != text:
            self._said[topic] = text
            self._say(text)

    def _text(self, event: Message) -> str | None:
        match event:
            case JobState():
                quiet = event.state.value == "running" and event.round > 0
                return None if quiet else f"job {event.job} {event.state.value}: {event.reason}"
            case RoundClosed():
                if event.round <= self._round:
                    return None
                self._round = event.round
                return f"round {event.round}: loss {event.loss:.4f} in {event.seconds:.1f} s, {event.reason}"
            case RoundOpened():
                was, self._term = self._term, event.term
                return f"round {event.round}: {event.node} reduces, {event.reason}" if event.term > was else None
            case Validated():
                return f"round {event.round}: held-out loss {event.loss:.4f}"
            case Roster() | Assignment() | Tuning():
                return f"{event.source}: {event.reason}"
            case EmulatedLinkChanged():
                return f"{event.node}: emulated link, on order: {event.reason or event.do} ({event.profile})"
            case LinkQualityChanged() | NetworkAlert():
                return f"{event.node}: {event.reason}"
            case NodeJoined() | NodeLost() | NodeQuarantined() | NodeReleased() | WorkFailed():
                return f"{event.node}: {event.reason}"
            case RolledBack():
                return f"optimizer: {event.reason}"
            case DigestMismatch():
                return f"{event.suspect}: its parameters of version {event.version} differ from {event.node}'s"
        return None

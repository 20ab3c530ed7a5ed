"""Events as plain lines, for pipes, logs and terminals that can't be drawn on."""

from collections.abc import Callable

from runners.view.words import said_by
from schemas.jobs import JobPhase, JobState
from schemas.training import RoundClosed, RoundOpened
from schemas.wire import Message


class Lines:
    """Prints a line for each event that deserves one, and nothing twice."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: dict[str, str] = {}
        self._phase: dict[str, JobPhase] = {}
        self._round: dict[str, int] = {}
        self._term: dict[str, int] = {}

    def see(self, event: Message) -> None:
        """Take one event in."""
        text = self._text(event)
        if text is None:
            return
        topic = f"{type(event).__name__}/{getattr(event, 'job', '')}/{getattr(event, 'node', '')}"
        if self._said.get(topic) != text:
            self._said[topic] = text
            self._say(text)

    def _text(self, event: Message) -> str | None:
        match event:
            case RoundClosed():
                if event.round <= self._round.get(event.job, 0):
                    return None
                self._round[event.job] = event.round
                return f"round {event.round}: loss {event.loss:.4f} in {event.seconds:.1f} s, {event.reason}"
            case RoundOpened():
                was = self._term.get(event.job, 0)
                self._term[event.job] = max(was, event.term)
                return f"round {event.round}: {event.node} reduces, {event.reason}" if event.term > was else None
            case JobState():
                # While a job runs its reason follows the rounds, which have lines of their own.
                was_phase, self._phase[event.job] = self._phase.get(event.job), event.state
                if event.state is was_phase is JobPhase.RUNNING:
                    return None
                return f"job {event.job} {event.state.value}: {event.reason}"
        said = said_by(event)
        return f"{said.who}: {said.text}" if said is not None else None

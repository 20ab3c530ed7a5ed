"""A run of a simulation as a story: what went wrong for whom, and which word led to which."""

from collections import deque

from runners.simulation.cases import Case, Result, run
from runners.simulation.schedule import FaultEvent
from runners.simulation.world import World
from runners.view.words import said_by
from schemas.asyncapi import summary
from schemas.wire import Message

# Messages that are remembered: what a small case publishes in all, and the last minutes of a large one.
REMEMBERED = 200_000
# Links of a chain of causes that are told, and words where nothing names a cause.
CHAIN, LAST_WORDS = 12, 6
# Fields that say which one a message is.
_TELLING = ("contributor", "round", "term", "version")


class Recording:
    """Remembers what is published in a run."""

    def __init__(self) -> None:
        self.messages: deque[tuple[float, Message]] = deque(maxlen=REMEMBERED)
        self.faults: list[FaultEvent] = []

    def attach(self, world: World) -> None:
        """Listen to a simulation before its first event."""
        self.faults = world.chaos.done
        world.network.tap = lambda message: self.messages.append((world.network.now, message))

    def chain(self, event: str) -> list[tuple[float, Message]]:
        """What led to an event, and it, the oldest first. A cause that was never published (a person, a start) ends it."""
        known = {message.id: (at, message) for at, message in self.messages}
        found: list[tuple[float, Message]] = []
        while event in known and len(found) < CHAIN:
            found.append(known[event])
            event = found[-1][1].cause
        return found[::-1]

    def about(self, words: str) -> list[tuple[float, Message]]:
        """The last words on whom a sentence names, the oldest first."""
        names = {word.strip(":;,.()'\"") for word in words.split()}
        found: list[tuple[float, Message]] = []
        for at, message in reversed(self.messages):
            subjects = {getattr(message, field, None) for field in ("job", "node", "suspect")} | {message.source}
            if getattr(message, "reason", "") and not subjects.isdisjoint(names):
                found.append((at, message))
                if len(found) == LAST_WORDS:
                    break
        return found[::-1]


def tell(case: Case) -> list[str]:
    """Run a case again, and tell it in lines."""
    recording = Recording()
    return told(case, run(case, recording.attach), recording)


def told(case: Case, result: Result, recording: Recording) -> list[str]:
    """The story of a run that was recorded."""
    finding = result.finding
    lines = [f"seed {case.seed}, {len(case.nodes)} nodes, {case.hours:.2g} h, {len(case.schedule)} faults"]
    if finding is None:
        return [*lines, "nothing is wrong with it"]
    chain = recording.chain(finding.event)
    because = chain or recording.about(finding.what)
    heading = "what led to it:" if chain else "the last words on it:"
    lines += ["what went wrong around them:", *(_fault(event) for event in recording.faults)]
    lines += [heading, *(_word(at, message, bool(chain)) for at, message in because)] if because else []
    return [*lines, f"{finding.at:10.3f} s  {finding.kind}: {finding.what}"]


def _fault(event: FaultEvent) -> str:
    return f"{event.at:10.3f} s  {event.told()}"


def _word(at: float, message: Message, chained: bool) -> str:
    said = said_by(message)
    text = said.text if said is not None else getattr(message, "reason", "") or summary(type(message))
    of = [f"{name} {value}" for name in _TELLING if (value := getattr(message, name, None)) is not None]
    because = f", because of {message.cause}" if message.cause and not chained else ""
    what = " ".join([type(message).__name__, *of])
    return f"{at:10.3f} s  {message.source or 'a client'} says {what}: {text} ({message.id}{because})"

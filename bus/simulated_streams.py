"""The streams of the simulated carrier: what is stored, and the positions of those who read it."""

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bus.port import Interest
from schemas.wire import Wire, wire_of

if TYPE_CHECKING:
    from bus.simulated_endpoint import Endpoint

# Seconds in which a stream knows the name of an effect again, as on the NATS carrier.
DUPLICATE_WINDOW = 120.0
# Messages that a stream of records keeps; the oldest go first, as on the NATS carrier (which counts bytes).
KEPT = 200_000
# Deliveries of one position that may be unacknowledged at once (JetStream's default).
MAX_PENDING = 1000


class Outcome(enum.Enum):
    """What became of a publish at the stream."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    TAKEN = "taken"


class Stored(NamedTuple):
    """A stored message."""

    sequence: int
    subject: str
    wire: Wire | None
    data: bytes


class SimulatedStream:
    """Messages in the order of their coming. `newest_only`: a new one on a subject takes the place of the old one."""

    def __init__(self, newest_only: bool, kept: int = KEPT) -> None:
        self.messages: dict[int, Stored] = {}
        self.last = 0
        self.positions: list[Position] = []
        self._newest_only = newest_only
        self._kept = kept
        self._by_subject: dict[str, int] = {}
        self._names: dict[str, float] = {}
        self._readers: dict[str, tuple[Position, ...]] = {}

    def store(self, subject: str, wire: Wire | None, data: bytes, name: str, first: bool, now: float) -> Outcome:
        """Append a message, unless its effect's name is known or, with `first`, its subject has one already."""
        names = self._names
        if name:
            while names and next(iter(names.values())) < now - DUPLICATE_WINDOW:
                del names[next(iter(names))]
            if name in names:
                return Outcome.DUPLICATE
        older = self._by_subject.get(subject)
        if first and older is not None:
            return Outcome.TAKEN
        if name:
            names[name] = now
        if self._newest_only and older is not None:
            del self.messages[older]
        self.last += 1
        self.messages[self.last] = Stored(self.last, subject, wire, data)
        self._by_subject[subject] = self.last
        if len(self.messages) > self._kept:
            self._remove(next(iter(self.messages)))
        return Outcome.STORED

    def readers(self, subject: str, wire: Wire | None) -> tuple["Position", ...]:
        """Who reads messages on this subject."""
        found = self._readers.get(subject)
        if found is None:
            found = tuple(position for position in self.positions if position.wants(wire, subject))
            self._readers[subject] = found
        return found

    def changed(self) -> None:
        """Call after a change of `positions` or of what one of them is interested in."""
        self._readers.clear()

    def is_newest(self, stored: Stored) -> bool:
        """Whether no later message is on the same subject."""
        return self._by_subject.get(stored.subject) == stored.sequence

    def after(self, sequence: int) -> Iterator[Stored]:
        """What is stored with a higher sequence, in order."""
        if sequence >= self.last:
            return iter(())
        return iter([stored for stored in self.messages.values() if stored.sequence > sequence])

    def purge(self, matches: Callable[[str], bool]) -> None:
        """Remove messages on matching subjects."""
        for sequence in [each.sequence for each in self.messages.values() if matches(each.subject)]:
            self._remove(sequence)

    def _remove(self, sequence: int) -> None:
        stored = self.messages.pop(sequence)
        if self._by_subject.get(stored.subject) == sequence:
            del self._by_subject[stored.subject]


class Position:
    """How far somebody has read a stream: what was delivered and not acknowledged comes again."""

    def __init__(self, stream: SimulatedStream, interests: Sequence[Interest], next_sequence: int) -> None:
        self.stream = stream
        self.next = next_sequence
        self.pending: dict[int, float] = {}
        """Sequence -> when it comes again, in that order."""
        self.behind = False
        """Whether more is stored than was delivered, for want of room in `pending`."""
        self.checking = False
        """Whether a look for overdue acknowledgements is scheduled."""
        self.acknowledge: Callable[[Endpoint, Position, int], None] = _unread
        self._interests: dict[Wire, list[dict[str, str]]] = {}
        self.set_interests(interests)

    def set_interests(self, interests: Sequence[Interest]) -> None:
        """What it reads from now on."""
        self._interests.clear()
        for interest in interests:
            self._interests.setdefault(wire_of(interest.kind), []).append(dict(interest.fixed))
        self.stream.changed()

    def wants(self, wire: Wire | None, subject: str) -> bool:
        """Whether messages on this subject are for it."""
        return wire is not None and any(held(wire, subject, fixed) for fixed in self._interests.get(wire, ()))

    def skip_to_newest(self) -> list[Stored]:
        """The newest message of each subject that is stored now; the position is after all of them."""
        found = [
            stored
            for stored in self.stream.messages.values()
            if self.stream.is_newest(stored) and self.wants(stored.wire, stored.subject)
        ]
        self.next = self.stream.last + 1
        return found


def _unread(endpoint: "Endpoint", position: Position, sequence: int) -> None:
    """A position that nobody holds has nothing to acknowledge."""


def held(wire: Wire, subject: str, fixed: dict[str, str]) -> bool:
    """Whether a subject of a type has these values for its placeholders."""
    if not fixed:
        return True
    tokens = zip(wire.tokens, subject.split("."), strict=True)
    return all(fixed.get(part[1:-1], token) == token for part, token in tokens if part[0] == "{")


def matcher(subjects: str) -> Callable[[str], bool]:
    """A NATS subject filter (`*` one token, `>` all that follow) as a function."""
    wanted = subjects.split(".")

    def matches(subject: str) -> bool:
        tokens = subject.split(".")
        if wanted[-1] == ">":
            head = wanted[:-1]
            return len(tokens) > len(head) and all(w in ("*", t) for w, t in zip(head, tokens, strict=False))
        return len(tokens) == len(wanted) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))

    return matches

"""The streams of the simulated carrier: what is stored, and the positions of those who read it."""

import enum
from collections.abc import Callable, Sequence
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


Narrowing = list[tuple[int, str]]
"""Tokens of a subject held fixed: (place, value)."""
Interests = dict[Wire, list[Narrowing]]
"""By type: any of several narrowings. An empty one is the whole type."""


class Outcome(enum.Enum):
    """What became of a publish at the stream."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    TAKEN = "taken"


class Stored(NamedTuple):
    """A stored message."""

    sequence: int
    subject: str
    wire: Wire
    data: bytes


class SimulatedStream:
    """Messages in the order of their coming. `newest_only`: a new one on a subject takes the place of the old one."""

    def __init__(self, newest_only: bool, kept: int = KEPT) -> None:
        self.messages: dict[int, Stored] = {}
        self.last = 0
        self._newest_only = newest_only
        self._kept = kept
        self._newest: dict[Wire, dict[str, int]] = {}
        self._names: dict[str, float] = {}
        self._positions: dict[Wire, dict[Position, None]] = {}
        self._readers: dict[Wire, dict[str, tuple[Position, ...]]] = {}
        """Found so far, by subject."""

    def store(self, subject: str, wire: Wire, data: bytes, name: str, first: bool, now: float) -> Outcome:
        """Append a message, unless its effect's name is known or, with `first`, its subject has one already."""
        names = self._names
        if name:
            while names and next(iter(names.values())) < now - DUPLICATE_WINDOW:
                del names[next(iter(names))]
            if name in names:
                return Outcome.DUPLICATE
        newest = self._newest.setdefault(wire, {})
        older = newest.get(subject)
        if first and older is not None:
            return Outcome.TAKEN
        if name:
            names[name] = now
        if self._newest_only and older is not None:
            del self.messages[older]
        self.last += 1
        self.messages[self.last] = Stored(self.last, subject, wire, data)
        newest[subject] = self.last
        if len(self.messages) > self._kept:
            self._remove(next(iter(self.messages)))
        return Outcome.STORED

    def add(self, position: "Position", interests: Sequence[Interest]) -> None:
        """Let somebody read; one who reads already reads something else from now on."""
        self.leave(position)
        position.interests = by_wire(interests)
        for wire in position.interests:
            self._positions.setdefault(wire, {})[position] = None
            self._readers[wire] = {}

    def leave(self, position: "Position") -> None:
        """Somebody reads no more."""
        for wire in position.interests:
            self._positions.get(wire, {}).pop(position, None)
            self._readers[wire] = {}

    def readers(self, subject: str, wire: Wire) -> tuple["Position", ...]:
        """Who reads messages on this subject."""
        known = self._readers.get(wire)
        if known is None:
            return ()
        found = known.get(subject)
        if found is None:
            tokens = subject.split(".")
            found = known[subject] = tuple([each for each in self._positions[wire] if held(tokens, each.interests[wire])])
        return found

    def newest(self, interests: Interests) -> list[Stored]:
        """The newest message of each subject of these interests, in the order of their coming."""
        found = [
            sequence
            for wire, narrowings in interests.items()
            for subject, sequence in self._newest.get(wire, {}).items()
            if held(subject.split("."), narrowings)
        ]
        return [self.messages[sequence] for sequence in sorted(found)]

    def after(self, sequence: int) -> list[Stored]:
        """What is stored with a higher sequence, in order."""
        if sequence >= self.last:
            return []
        return [stored for stored in self.messages.values() if stored.sequence > sequence]

    def purge(self, matches: Callable[[str], bool]) -> None:
        """Remove messages on matching subjects."""
        for sequence in [each.sequence for each in self.messages.values() if matches(each.subject)]:
            self._remove(sequence)

    def _remove(self, sequence: int) -> None:
        stored = self.messages.pop(sequence)
        newest = self._newest[stored.wire]
        if newest.get(stored.subject) == sequence:
            del newest[stored.subject]


class Position:
    """How far somebody has read a stream: what was delivered and not acknowledged comes again."""

    __slots__ = ("acknowledge", "behind", "checking", "interests", "next", "pending", "stream")

    def __init__(self, stream: SimulatedStream, next_sequence: int) -> None:
        self.stream = stream
        self.next = next_sequence
        self.pending: dict[int, float] = {}
        """Sequence -> when it comes again, in that order."""
        self.behind = False
        """Whether more is stored than was delivered, for want of room in `pending`."""
        self.checking = False
        """Whether a look for overdue acknowledgements is scheduled."""
        self.interests: Interests = {}
        self.acknowledge: Callable[[Endpoint, Position, int], None] = _unread

    def wants(self, wire: Wire, subject: str) -> bool:
        """Whether messages on this subject are for it."""
        return held(subject.split("."), self.interests.get(wire, ()))


def by_wire(interests: Sequence[Interest]) -> Interests:
    """Interests by type: the ways in which each is narrowed."""
    found: Interests = {}
    for interest in interests:
        wire = wire_of(interest.kind)
        found.setdefault(wire, []).append([(wire.tokens.index(f"{{{f}}}"), value) for f, value in interest.fixed.items()])
    return found


def _unread(endpoint: "Endpoint", position: Position, sequence: int) -> None:
    """A position that nobody holds has nothing to acknowledge."""


def held(tokens: list[str], narrowings: Sequence[Narrowing]) -> bool:
    """Whether a subject of a type, split into its tokens, is within one of these narrowings of the type."""
    for narrowing in narrowings:
        for place, value in narrowing:
            if tokens[place] != value:
                break
        else:
            return True
    return False


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

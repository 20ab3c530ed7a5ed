"""A core with all that makes it outlive its process: its timers, its journal, the way back from an input it raised on.

No asyncio and no clock in here: `now` is an argument, as for the core itself.
"""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agents.base import Agent
from agents.effects import CancelTimer, Effect, Publish, Reply, SetTimer, Timer
from agents.inputs import Asked, Woken
from runners.inputs import InputCodec
from runners.journal import Entry, JournalUnreadable, Recovered, Snapshot, TimerSet
from runners.seen import Seen
from runners.steps import Input, Step, identity_of, lasting
from runners.timers import Timers
from runners.undo import Undo, pack_random, seal_effects, unpack_random
from schemas.decisions import InputFailed
from schemas.errors import FAULTS

# Characters of an error's text that are passed on: a line or two, and no message grows without bound.
LONGEST_REASON = 1000


@dataclass
class Recovery:
    """What was found of an earlier life."""

    resumed: bool = False
    inputs: int = 0
    """Inputs that were handled again."""
    now: float = 0.0
    """When the earlier life's last input came; 0 where there was none."""
    unfinished: list[Step] = field(default_factory=list)
    """Steps whose lasting effects must be carried out again."""
    damaged: int = 0
    """Bytes of the journal that were cut off."""


_ENCODE = msgspec.msgpack.Encoder(enc_hook=str).encode


def sum_of(effects: list[Effect]) -> bytes:
    """Four bytes over what an input led to: CRC-32 of all effects, of what kinds they are, and what is in them."""
    if not effects:
        return bytes(4)
    kinds = ",".join([type(_inside(effect)).__name__ for effect in effects])
    return zlib.crc32(_ENCODE(effects), zlib.crc32(kinds.encode())).to_bytes(4, "little")


def _inside(effect: Effect) -> object:
    """What an effect is about, whose type its bytes don't tell."""
    if type(effect) is Publish:
        return effect.message
    if type(effect) is SetTimer or type(effect) is CancelTimer:
        return effect.timer
    return effect


def settings_of(agent: Agent[Any]) -> bytes:
    """A core's settings as its journal keeps them; empty where it has none."""
    settings = getattr(agent, "settings", None)
    return b"" if settings is None else _ENCODE(settings)


class Keeper(Protocol):
    """Where a core's journal is kept: `runners.journal.Journal`, whose methods these are, or one that replicas share."""

    folder: Path

    @property
    def full(self) -> bool:
        """Whether it is time for `rotate`."""

    def load(self) -> Recovered | None:
        """What an earlier life left."""

    def append(self, entry: Entry) -> None:
        """Note an input."""

    def done(self, numbers: list[int]) -> None:
        """Note that the effects of these inputs are carried out."""

    def decided(self, first: int, sums: bytes) -> None:
        """Note what consecutive inputs led to."""

    def begin(self, settings: bytes) -> None:
        """Note that a process takes the core on."""

    def flush(self) -> None:
        """What was noted is to be kept."""

    def rotate(self, snapshot: Snapshot) -> None:
        """Let a snapshot take the place of all that was noted."""

    def close(self) -> None:
        """Nothing more is noted."""


class JournaledCore:
    """One core, its timers and its journal. `journal=None`: each life starts afresh."""

    def __init__(self, agent: Agent[Any], source: str, incarnation: int, journal: Keeper | None) -> None:
        self.agent = agent
        self.source = source
        self.incarnation = incarnation
        self.timers = Timers()
        self.failures = 0
        """Inputs of this life that the core raised on."""
        self._journal = journal
        self._codec = InputCodec(agent.handlers)
        self._undo = Undo(agent, source)
        self._seen = Seen()
        self._sequence = 0
        self._number = 0
        self._now = 0.0
        self._open: set[int] = set()
        """Steps with effects under way that a later life would have to redo."""
        self._done: list[int] = []
        self._sums: list[bytes] = []

    def recover(self, now: float) -> Recovery:
        """Find the state of the earlier life, handling its inputs again, and begin a new life.

        Raises:
            JournalUnreadable: the journal is damaged beyond its tail, or of another version of the core.
        """
        if self._journal is None:
            return Recovery(now=now)
        incarnation = self.incarnation
        found = self._journal.load()
        if found is None:
            self._journal.rotate(self.snapshot(now))
            self._journal.begin(settings_of(self.agent))
            return Recovery(now=now)
        recovery = self.replay(found)
        self._journal.begin(settings_of(self.agent))
        self.incarnation = max(incarnation, self.incarnation + 1)
        self._sequence = 0
        return recovery

    def take(self, entry: Input, now: float) -> Step | None:
        """Give one input to the core: timers are set, messages sealed, the rest is in the step. None for a duplicate."""
        if entry.id and not self._seen.add(entry.id):
            return None
        self._number += 1
        if self._journal is not None:
            kind, body = self._codec.pack(entry.event)
            self._journal.append(Entry(self._number, kind, body, now, entry.cause, entry.id))
        step = self._handle(entry, self._number, now)
        if self._journal is not None:
            self._sums.append(sum_of(step.effects))
            if any(map(lasting, step.effects)):
                self._open.add(step.number)
        return step

    def finished(self, step: Step) -> bool:
        """The effects of a step are carried out; says whether a mark waits for `flush`."""
        if step.number in self._open:
            self._open.discard(step.number)
            self._done.append(step.number)
        return bool(self._done)

    def flush(self, now: float) -> None:
        """Put what was taken and finished on file; where the file is full and nothing is under way, a snapshot.

        Raises:
            JournalUnwritable: the disk takes no more.
        """
        if self._journal is None:
            return
        if self._sums:
            self._journal.decided(self._number - len(self._sums) + 1, b"".join(self._sums))
            self._sums = []
        if self._done:
            self._journal.done(self._done)
            self._done = []
        self._journal.flush()
        if self._journal.full and not self._open:
            self._journal.rotate(self.snapshot(now))

    @property
    def resting(self) -> bool:
        """Whether nothing should be taken until the steps under way are finished: the file is full."""
        return self._journal is not None and self._journal.full and bool(self._open)

    def close(self, now: float) -> None:
        """Leave everything on file: a snapshot where nothing is under way, so that the next life has nothing to redo."""
        if self._journal is not None:
            self.flush(now)
            if not self._open:
                self._journal.rotate(self.snapshot(now))
            self._journal.close()

    def _handle(self, entry: Input, number: int, now: float) -> Step:
        self._now = now
        event = entry.event
        if isinstance(event, Woken):
            self.incarnation = event.incarnation
            self._sequence = 0
        before = self._sequence
        try:
            effects = self.agent.handle(event, now, entry.cause)
        except Exception as error:  # a core's fault must not end its agent: set the input aside, say so, go on
            self._undo.restore()
            self.failures += 1
            effects = self._failed(entry, error)
        else:
            self._undo.remember(event, now, entry.cause, self.incarnation, before)
        self._sequence = seal_effects(effects, self.source, self.incarnation, before, now)
        for effect in effects:
            if type(effect) is SetTimer:
                self.timers.set(effect.timer, max(effect.at, now), effect.cause)
            elif type(effect) is CancelTimer:
                self.timers.cancel(effect.timer)
        journaled = self._journal is not None
        return Step(number, entry, effects, identity_of(event, entry.cause, self.incarnation, number, journaled))

    def _failed(self, entry: Input, error: Exception) -> list[Effect]:
        asked = entry.event if isinstance(entry.event, Asked) else None
        kind = type(asked.request if asked else entry.event).__name__
        reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
        told = InputFailed(agent=self.source.replace("/", "-")[:64], input=kind, reason=reason)
        effects: list[Effect] = [Publish(message=told, cause=entry.cause)]
        if asked:
            effects.append(Reply(to=asked.reply_to, answer=self.agent.refusal("$", f"internal error: {reason}")))
        return effects

    # An earlier life.

    def replay(self, found: Recovered) -> Recovery:
        """Be as the core was at the end of a journal. Raises `JournalUnreadable`."""
        self.restore(found.snapshot)
        unfinished: list[Step] = []
        for entry in found.entries:
            step = self.again(entry)
            if step is not None and entry.number not in found.done and any(map(lasting, step.effects)):
                self._open.add(entry.number)
                unfinished.append(step)
        return Recovery(
            resumed=self._number > 0,
            inputs=len(found.entries),
            now=self._now,
            unfinished=unfinished,
            damaged=found.damaged,
        )

    def restore(self, kept: Snapshot) -> None:
        """Be as the core was when a snapshot was taken. Raises `JournalUnreadable` where it is another version's."""
        try:
            self.agent.state = msgspec.msgpack.decode(kept.state, type=type(self.agent.state))
            timers = [(self._codec.unpack(each.kind, each.body), each) for each in kept.timers]
            unpack_random(self.agent.rng, kept.random)
        except (*FAULTS, ValueError) as error:
            raise self._unreadable(f"its state is of another version: {error}") from error
        self.timers = Timers()
        for timer, each in timers:
            if isinstance(timer, Timer):
                self.timers.set(timer, each.at, each.cause)
        self._undo = Undo(self.agent, self.source)
        self._seen.restore(kept.seen)
        self._number, self._sequence, self.incarnation, self._now = kept.number, kept.sequence, kept.incarnation, kept.now

    def again(self, entry: Entry) -> Step | None:
        """Handle an input of an earlier life again; None where this version of the core knows no such input.

        Raises:
            JournalUnreadable: the input is of another version of the core.
        """
        self._number = entry.number
        if entry.id:
            self._seen.add(entry.id)
        try:
            event = self._codec.unpack(entry.kind, entry.body)
        except FAULTS as error:
            raise self._unreadable(f"a {entry.kind} in it is of another version: {error}") from error
        if event is None:
            return None
        if isinstance(event, Timer):
            self.timers.cancel(event)
        return self._handle(Input(event, entry.cause), entry.number, entry.now)

    def _unreadable(self, why: str) -> JournalUnreadable:
        return JournalUnreadable(self._journal.folder if self._journal is not None else Path(self.source), why)

    def snapshot(self, now: float) -> Snapshot:
        """All that the core and its host know now."""
        timers = [TimerSet(*self._codec.pack(timer), at, cause) for timer, at, cause in self.timers.in_order()]
        return Snapshot(
            number=self._number,
            now=max(now, self._now),
            incarnation=self.incarnation,
            sequence=self._sequence,
            state=msgspec.msgpack.encode(self.agent.state),
            random=pack_random(self.agent.rng),
            timers=timers,
            seen=self._seen.ids(),
        )

"""Replay: the inputs that an agent journalled go through its core again, which must decide the same, byte for byte."""

import importlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agents.base import Agent, Effect
from runners.agent_process import KINDS
from runners.inputs import InputCodec
from runners.journal import Entry, Life, Snapshot
from runners.journal_past import Chapter, chapters
from runners.journaled import JournaledCore, sum_of
from runners.settings import load_settings
from schemas.errors import ShoalError

# Inputs before a difference that are shown with it: enough to see what was going on.
CONTEXT = 5

Make = Callable[[bytes], Agent[Any]]
"""Makes a core with settings as its journal keeps them; with empty ones those of now."""


class NothingToReplay(ShoalError):
    """There is no journal where one was looked for. Attribute: `path`."""

    def __init__(self, path: Path, why: str = "no agent's journal is there") -> None:
        super().__init__(
            f"{path}: {why}: give the directory of `shoal up` (--store, by default .shoal) or one agent's in it"
        )
        self.path = path


@dataclass(frozen=True)
class Played:
    """One input that was handled again."""

    entry: Entry
    event: msgspec.Struct | None
    effects: list[Effect]
    agrees: bool | None
    """Whether it led to what it had led to; None where the journal doesn't say."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """An input as people read it."""

    number: int
    kind: str
    at: float
    """Seconds since the epoch."""
    cause: str
    input: dict[str, Any]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replay first came to something else."""

    what: str
    input: Taken | None
    """None where it is a snapshot's state that differs."""
    before: list[Taken]
    """The inputs before it."""
    decided: list[dict[str, Any]]
    """What the input leads to now."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the replay of one agent came to."""

    agent: str
    inputs: int
    compared: int
    """Inputs whose decisions were compared; those of a journal that an older program wrote can't be."""
    snapshots: int
    """States on file that were compared with the replay's."""
    lives: int
    first: int
    """Number of the first input; those before it are in the oldest snapshot alone."""
    since: float
    """Seconds since the epoch: when that snapshot was taken."""
    until: float
    difference: Difference | None = None


def journals_in(run: Path, agent: str | None = None) -> dict[str, Path]:
    """The journals of a run, by agent: of a store, of the directory that it is in, or the one given itself.

    Raises:
        NothingToReplay: none is there.
    """
    for base in (run / "agents", run / ".shoal" / "agents"):
        if base.is_dir():
            found = {path.parent.name: path.parent for path in sorted(base.glob("*/snapshot")) if path.parent.name in KINDS}
            if agent is not None:
                found = {name: path for name, path in found.items() if name == agent}
            if not found:
                raise NothingToReplay(run, f"no journal of {agent} is there" if agent else "no agent has a journal there")
            return found
    if (run / "snapshot").is_file() and run.name in KINDS and agent in (None, run.name):
        return {run.name: run}
    raise NothingToReplay(run)


def maker(name: str, store: Path, changes: dict[str, Any] | None = None) -> Make:
    """What makes an agent's core for a replay; `changes` are settings to have instead of those that it had."""
    kind = KINDS[name]

    def make(settings: bytes) -> Agent[Any]:
        module = importlib.import_module(kind.module)
        type_ = getattr(module, f"{kind.core}Settings")
        chosen = msgspec.msgpack.decode(settings, type=type_) if settings else load_settings(type_, name, store)
        if changes:
            chosen = msgspec.convert(msgspec.to_builtins(chosen) | changes, type_)
        core: Agent[Any] = getattr(module, kind.core)(chosen, random.Random(0))
        return core

    return make


def play(name: str, past: list[Chapter], make: Make) -> Iterator[Played | Snapshot]:
    """Handle all inputs of these chapters again, in order, and give between them a snapshot that doesn't agree.

    Raises:
        JournalUnreadable: an input or a state is of another version of the core.
    """
    core: JournaledCore | None = None
    settings = b""
    for chapter in past:
        if core is not None and not _same_state(core, chapter.snapshot):
            yield chapter.snapshot
        core = None
        for place, (life, entries) in enumerate(chapter.lives):
            if life is not None and life.settings != settings:
                settings, core = life.settings, None
            if core is None:
                core = _brought_to(name, chapter, place, make(settings))
            codec = InputCodec(core.agent.handlers)
            for entry in entries:
                step = core.again(entry)
                kept = chapter.sums.get(entry.number)
                effects = step.effects if step is not None else []
                event = step.entry.event if step is not None else codec.unpack(entry.kind, entry.body)
                yield Played(entry, event, effects, None if kept is None else kept == sum_of(effects))


def _brought_to(name: str, chapter: Chapter, place: int, agent: Agent[Any]) -> JournaledCore:
    """A core as its process had it when it began: it handled what was on file before, by its own settings."""
    core = JournaledCore(agent, name, 0, None)
    core.restore(chapter.snapshot)
    for _, entries in chapter.lives[:place]:
        for entry in entries:
            core.again(entry)
    return core


def _same_state(core: JournaledCore, kept: Snapshot) -> bool:
    """Whether a core is as it was when a snapshot was taken. A set has no order, so unequal bytes are decoded."""
    ours = core.snapshot(kept.now)
    if ours.random != kept.random or ours.timers != kept.timers:
        return False
    if ours.state == kept.state:
        return True
    type_ = type(core.agent.state)
    return bool(msgspec.msgpack.decode(ours.state, type=type_) == msgspec.msgpack.decode(kept.state, type=type_))


def replay(name: str, folder: Path, make: Make) -> Outcome:
    """Replay one agent's journal up to the first difference.

    Raises:
        NothingToReplay: it holds no inputs.
        JournalUnreadable: it is of another version of the program.
    """
    past = chapters(folder)
    if not past:
        raise NothingToReplay(folder)
    before: deque[Played] = deque(maxlen=CONTEXT)
    inputs = compared = states = 0
    until = past[0].snapshot.now
    difference: Difference | None = None
    for each in play(name, past, make):
        if isinstance(each, Snapshot):
            difference = Difference(
                what=f"the state after input {each.number} is not the one in the snapshot that was taken then",
                input=None, before=[taken(one) for one in before], decided=[],
            )  # fmt: skip
            break
        inputs += 1
        compared += each.agrees is not None
        until = each.entry.now
        if each.agrees is False:
            difference = Difference(
                what=f"input {each.entry.number} leads to something else than it had led to",
                input=taken(each),
                before=[taken(one) for one in before],
                decided=[shown(effect) for effect in each.effects],
            )
            break
        before.append(each)
    if difference is None:
        states = len(past) - 1
    return Outcome(
        agent=name, inputs=inputs, compared=compared, snapshots=states,
        lives=sum(isinstance(life, Life) for chapter in past for life, _ in chapter.lives),
        first=past[0].snapshot.number + 1, since=past[0].snapshot.now, until=until, difference=difference,
    )  # fmt: skip


def taken(played: Played) -> Taken:
    """An input as people read it."""
    entry = played.entry
    return Taken(
        number=entry.number, kind=entry.kind, at=entry.now, cause=entry.cause,
        input=_plain(played.event) if played.event is not None else {},
    )  # fmt: skip


def shown(effect: Effect) -> dict[str, Any]:
    """An effect as people read it."""
    inside = getattr(effect, "message", None) or getattr(effect, "timer", None)
    kind = type(effect).__name__ if inside is None else f"{type(effect).__name__} {type(inside).__name__}"
    return {"effect": kind} | _plain(effect if inside is None else inside)


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    return plain if isinstance(plain, dict) else {"value": plain}

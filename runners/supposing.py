"""What another policy would have decided: a batch controller's journal, through its core as it was and as it is supposed.

Both cores take the same inputs; the supposed one has its own timers, assignments and memory of them. After each round the
assignments that both had in force are timed by one model, the controller's own, with what was measured up to then. What
that model was off by is known for the rounds that were, and taken to be as large for those that might have been.
"""

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

from agents.batch_controller import BatchControllerSettings
from agents.batch_controller.length import planner_for
from agents.batch_controller.state import BatchControllerState, Job, Kept
from agents.effects import Effect, Publish, Timer
from runners.inputs import InputCodec
from runners.journal import Entry, Snapshot
from runners.journal_past import chapters
from runners.journaled import JournaledCore, settings_of
from runners.replaying import Make, NothingToReplay, maker
from runners.steps import Input
from runners.supposed_time import Pair, Time, paired, predicted
from schemas.errors import ShoalError
from schemas.ids import JobId
from schemas.jobs import BatchStrategy, JobRequest, JobState
from schemas.training import Assignment, RoundClosed, Tuning

AGENT = "batch_controller"
# Decisions kept of each side: a day of a job that changes its mind every other minute.
KEPT = 1000
OF_REQUEST: dict[str, tuple[str, ...]] = {
    "batch": get_args(BatchStrategy),
    "encoding": ("auto", "float32", "float16", "int8", "int4", "topk"),
}
"""What may be supposed of jobs' requests: only the batch controller goes by it."""


class NoSuchPolicy(ShoalError):
    """A policy that can't be supposed. Attribute: `text`."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"--policy {text}: {why}")
        self.text = text


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is supposed."""

    request: dict[str, str] = {}
    """Fields of jobs' requests."""
    settings: dict[str, Any] = {}
    """Of the batch controller."""

    def of(self, request: JobRequest | None) -> JobRequest | None:
        """A job's request under it."""
        return msgspec.structs.replace(request, **self.request) if request is not None else None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment."""

    input: int
    """Number of the input that it came of, or after."""
    at: float
    """Seconds since the epoch."""
    job: JobId
    version: int
    reason: str


class Supposed(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal comes to under another policy."""

    policy: Policy
    inputs: int
    since: float
    until: float
    """Seconds since the epoch."""
    decided: list[Decision]
    """As it was; the last thousand."""
    would_decide: list[Decision]
    times: dict[JobId, Time]
    """What it would have meant for each job's time, as far as its rounds can tell."""


def policy_of(texts: list[str]) -> Policy:
    """`KEY=VALUE` as people write it. Raises `NoSuchPolicy`."""
    request: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for text in texts:
        key, mark, value = text.partition("=")
        if key in OF_REQUEST:
            if value not in OF_REQUEST[key]:
                raise NoSuchPolicy(text, f"{key} is one of {', '.join(OF_REQUEST[key])}")
            request[key] = value
        elif mark and key in BatchControllerSettings.__struct_fields__:
            try:
                settings[key] = getattr(msgspec.convert({key: value}, BatchControllerSettings, strict=False), key)
            except msgspec.ValidationError as error:
                raise NoSuchPolicy(text, str(error)) from error
        else:
            known = f"{', '.join(OF_REQUEST)} or a setting of [{AGENT}]"
            raise NoSuchPolicy(text, f"write KEY=VALUE, as batch=latency; KEY is {known}")
    return Policy(request=request, settings=settings)


def suppose(folder: Path, store: Path, policy: Policy) -> Supposed:
    """Put a batch controller's journal through its core twice.

    Raises:
        NothingToReplay: it holds no inputs.
        JournalUnreadable: it is of another version of the program.
    """
    past = chapters(folder)
    if not past:
        raise NothingToReplay(folder)
    both = _Both(maker(AGENT, store), maker(AGENT, store, policy.settings), policy)
    both.begin(past[0].snapshot)
    for chapter in past:
        for life, entries in chapter.lives:
            if life is not None:
                both.settle(life.settings)
            for entry in entries:
                both.take(entry)
    rng = random.Random(0)
    return Supposed(
        policy=policy,
        inputs=both.inputs,
        since=past[0].snapshot.now,
        until=both.now,
        decided=list(both.decided),
        would_decide=list(both.would_decide),
        times={job: predicted(pairs, both.left_out.get(job, 0), rng) for job, pairs in sorted(both.pairs.items())},
    )


class _Both:
    """The two cores, side by side."""

    def __init__(self, make: Make, make_supposed: Make, policy: Policy) -> None:
        self._makes = (make, make_supposed)
        self._policy = policy
        self._cores = tuple(JournaledCore(each(b""), AGENT, 0, None) for each in self._makes)
        self._codec = InputCodec(self._cores[0].agent.handlers)
        self._in_force: dict[JobId, tuple[float, Kept | None, Kept | None]] = {}
        """Since a job's last round closed: when that was, and what both had assigned."""
        self.inputs = 0
        self.now = 0.0
        self.decided: deque[Decision] = deque(maxlen=KEPT)
        self.would_decide: deque[Decision] = deque(maxlen=KEPT)
        self.pairs: dict[JobId, list[Pair]] = {}
        self.left_out: dict[JobId, int] = {}

    def begin(self, snapshot: Snapshot) -> None:
        """Both know what the controller knew then."""
        for core in self._cores:
            core.restore(snapshot)
        for job in self._state(1).jobs.values():
            job.request = self._policy.of(job.request)
        self.now = snapshot.now

    def settle(self, settings: bytes) -> None:
        """A process began, whose settings may be others."""
        if settings == settings_of(self._cores[0].agent):
            return
        made = []
        for core, make in zip(self._cores, self._makes, strict=True):
            made.append(JournaledCore(make(settings), AGENT, 0, None))
            made[-1].restore(core.snapshot(self.now))
        self._cores = tuple(made)

    def take(self, entry: Entry) -> None:
        """One input of the journal."""
        self.inputs, self.now = self.inputs + 1, entry.now
        step = self._cores[0].again(entry)
        if step is None:
            return
        self.decided += _decisions(step.effects, entry)
        event = step.entry.event
        supposed = self._cores[1]
        while (fired := supposed.timers.pop_due(entry.now)) is not None:
            self._would(supposed, Input(*fired), entry)
        changed = self._changed(event)
        if changed is not None:
            self._would(supposed, Input(changed, entry.cause), entry)
        if isinstance(event, RoundClosed):
            self._close(event, entry.now)

    def _would(self, core: JournaledCore, taken: Input, entry: Entry) -> None:
        step = core.take(taken, entry.now)
        if step is not None:
            self.would_decide += _decisions(step.effects, entry)

    def _changed(self, event: msgspec.Struct) -> msgspec.Struct | None:
        """An input as the supposed core gets it; None for what came of the decisions that were taken."""
        if isinstance(event, Timer):
            return None
        if isinstance(event, JobState):
            return msgspec.structs.replace(event, request=self._policy.of(event.request))
        if isinstance(event, Tuning):
            return event if self._same_then(event) else msgspec.structs.replace(event, rollback_to=None)
        if isinstance(event, Assignment):
            job = self._state(1).jobs.get(event.job)
            return event if job is None or job.current is None else None
        return event

    def _same_then(self, event: Tuning) -> bool:
        """Whether the assignment that the optimizer wants back is one that the supposed core has had as well."""
        histories = [job.history if (job := self._state(which).jobs.get(event.job)) else [] for which in (0, 1)]
        was, would = ([kept for kept in history if kept.version == event.rollback_to] for history in histories)
        return [kept.shares for kept in was] == [kept.shares for kept in would]

    def _close(self, event: RoundClosed, now: float) -> None:
        """A round is over: time what both had in force as it began, with what is known now."""
        jobs = [self._state(which).jobs.get(event.job) for which in (0, 1)]
        was, would = jobs
        if was is None or would is None or was.closed != event.round:
            return
        before = self._in_force.get(event.job)
        self._in_force[event.job] = (now, was.current, would.current)
        if before is None:
            return
        found = self._pair(was, would, now - before[0], before[1], before[2])
        if found is None:
            self.left_out[event.job] = self.left_out.get(event.job, 0) + 1
        else:
            self.pairs.setdefault(event.job, []).append(found)

    def _pair(self, was: Job, would: Job, seconds: float, a: Kept | None, b: Kept | None) -> Pair | None:
        """None where a round can't be compared: its nodes changed while it went on, or it went astray."""
        if a is None or b is None or was.request is None or would.request is None:
            return None
        if not set(a.shares) == set(b.shares) == set(was.roster):
            return None
        nodes = self._state(0).nodes
        planners = [
            planner_for(was, request, nodes, core.agent.settings)  # type: ignore[attr-defined]
            for request, core in zip((was.request, would.request), self._cores, strict=True)
        ]
        plans = [
            msgspec.structs.replace(
                planner.timed(kept.shares, kept.average_encoding), deadline_seconds=kept.deadline_seconds
            )
            for planner, kept in zip(planners, (a, b), strict=True)
        ]
        return paired(was, seconds, plans[0], plans[1], planners[0])

    def _state(self, which: int) -> BatchControllerState:
        state = self._cores[which].agent.state
        assert isinstance(state, BatchControllerState)
        return state


def _decisions(effects: list[Effect], entry: Entry) -> Iterator[Decision]:
    for effect in effects:
        if isinstance(effect, Publish) and isinstance(said := effect.message, Assignment):
            yield Decision(input=entry.number, at=entry.now, job=said.job, version=said.version, reason=said.reason)

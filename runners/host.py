"""The host: the only interpreter of effects. Inputs come in, the core decides, the host carries out what it decided.

All inputs that are there in one turn of the loop are handled one after the other; the journal is written; then the
effects of the turn begin. A message is acknowledged once everything it led to is stored. What is published on one subject
is stored in the order of the core's decisions; subjects don't wait for each other, and telemetry waits for nothing.

Requests that don't decode, and requests on which a core raises, are answered with what `Agent.refusal` gives.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from agents.base import Agent
from agents.inputs import Asked, Result, Stopping, Woken
from bus.port import Bus, BusError, Interest, Receipt, Start, Subscription
from runners.answering import Answering
from runners.interpreter import HistoryStore, Interpreter, WorkRunner
from runners.journal import Journal
from runners.journaled import LONGEST_REASON, JournaledCore, Recovery
from runners.load import Load
from runners.steps import Input, Step
from runners.usage import cpu_seconds, resident_bytes
from schemas.decisions import AgentStarted, AgentUsage, InputFailed
from schemas.wire import Message, Request, seal, wire_of

# Inputs of one turn: enough to share a journal write among them, few enough to keep a turn under some 10 ms.
TURN = 256
# Inputs whose effects are under way at once; beyond it new ones wait (the server holds back stored ones).
UNDER_WAY = 512
# Seconds. A timer this late means that the process was stopped, starved or restarted...
LATE = 1.0
# ...and so it waits this long more, two beats of a node at 1 Hz: hear what was missed before judging who is silent.
HEAR_FIRST = 2.0
# Seconds that the effects of `Stopping` may take, and the end of works after them; a whole `shoal up` must be gone in 10.
LAST_WORDS = 3.0
# Seconds between two reports of what the process uses: often enough to charge a round with its adaptation's cost, and
# a hundredth of the traffic of heartbeats.
USAGE_EVERY = 10.0


class Host:
    """Runs one core on one bus until it is stopped.

    Args:
        source: the name that it speaks under (`job_desk`, `node/n1`).
        scope: placeholders of subjects held fixed (`{"job": "j1"}`): only such messages come in.
        works: carries out `StartWork` and `StopWork`; closed at the end.
        history: carries out `Store`.
        journal: where inputs are kept so that a later life finds its state again; without one each life starts afresh.
        incarnation: number of this life, higher than any before; by default milliseconds since the epoch.
        durable: whether the position in the streams outlives the process.
        start: where in the streams the first life begins.
        announce: whether to tell of starts and usage (agents do, the processes of a job don't).
        core: the core with what it knows already, instead of one made from `agent`, `journal` and `incarnation`.
        commit: awaited after each turn, before its effects begin: a journal that is not on this machine. What it raises
            ends the host.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        agent: Agent[Any],
        bus: Bus,
        *,
        source: str,
        scope: Mapping[str, str] | None = None,
        works: WorkRunner | None = None,
        history: HistoryStore | None = None,
        journal: Journal | None = None,
        incarnation: int | None = None,
        durable: bool = True,
        start: Start = Start.ALL,
        announce: bool = True,
        core: JournaledCore | None = None,
        commit: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.agent = agent
        self.bus = bus
        self.source = source
        self.name = source.replace("/", "-")
        self._core = core or JournaledCore(agent, source, incarnation or int(time.time() * 1000), journal)
        self._load = Load(lambda: int(getattr(bus, "dropped", 0)), lambda: self._interpreter.full)
        self._answering = Answering(agent.refusal, source, self._asked, self._load.refusal)
        self._interpreter = Interpreter(
            bus, source, works, history, post=self.post, answer=self._answering.answer,
            finished=self._finished, failed=self._effect_failed, unsent=self._load.unsent,
        )  # fmt: skip
        self._works = works
        self._scope = dict(scope or {})
        self._durable = durable
        self._start = start
        self._announce = announce
        self._inbox: deque[Input] = deque()
        self._under_way = 0
        self._inputs = 0
        self._asides = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._alarm: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None
        self._usage: asyncio.TimerHandle | None = None
        self._hold: float | None = None
        self._stopping = asyncio.Event()
        self._last_words = asyncio.Event()
        self._failure: Exception | None = None
        self._commit = commit
        self._committing: set[asyncio.Task[None]] = set()
        self._repeated: list[Receipt] = []
        """Of second deliveries, to be acknowledged when what came first is kept."""
        self._ending = False
        self._clock = clock
        self._anchor = (time.time(), clock())

    @property
    def incarnation(self) -> int:
        """The number of this life."""
        return self._core.incarnation

    def now(self) -> float:
        """Seconds since the epoch as of this life's start, plus what a monotonic clock has counted since."""
        return self._anchor[0] + self._clock() - self._anchor[1]

    def post(self, result: Result, cause: str = "") -> None:
        """Bring a result in as an input; `cause` is the id of the event behind it. From the loop's thread only."""
        if self._load.takes(result, len(self._inbox)):
            self._put(Input(result, cause))

    def stop(self, reason: str) -> None:
        """Ask the host to end: the core says its last words, then `run` returns. Asking again changes nothing."""
        if self._stopping.is_set():
            return
        self._inbox.clear()  # what was not acknowledged comes again to the next life
        self._put(Input(Stopping(reason=reason)))
        self._stopping.set()

    def fail(self, error: Exception) -> None:
        """End at once: nothing more is decided, carried out or acknowledged, and `run` raises the error."""
        if self._failure is None:
            self._failure = error
        self._inbox.clear()
        self._stopping.set()
        self._last_words.set()

    async def run(self) -> None:
        """Live: find the state again, subscribe, handle inputs until `stop`.

        Raises:
            JournalUnreadable: the journal is of another version, or damaged beyond its tail.
            JournalUnwritable: the disk is full; nothing was acknowledged that isn't on file.
            Superseded: `commit` raised it: a standby has taken over.
            Unreachable: no server to subscribe at.
        """
        recovery = self._core.recover(time.time())
        self._anchor = (max(time.time(), recovery.now), self._clock())
        standing: list[Subscription] = []
        try:
            for step in recovery.unfinished:
                self._under_way += 1
                self._interpreter.carry_out(step, again=True)
            await self._connect(standing)
            self._begin(recovery)
            await self._stopping.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._last_words.wait()
                    if self._failure is None:
                        await self._interpreter.quiet()
        finally:
            await self._leave(standing)
        if self._failure is not None:
            raise self._failure

    def _begin(self, recovery: Recovery) -> None:
        """Everybody can reach the core now: wake it, before anything that has come meanwhile."""
        self._loop = asyncio.get_running_loop()
        born = ""
        if self._announce:
            born = f"{self.source}:{self.incarnation}:0"
            started = AgentStarted(
                agent=self.name[:64],
                incarnation=self.incarnation,
                resumed=recovery.resumed,
                replayed=recovery.inputs,
                down_seconds=max(0.0, self._anchor[0] - recovery.now) if recovery.resumed else 0.0,
            )
            self._interpreter.store(seal(started, id=born, cause="", at=self.now(), source=self.source))
            self._report_usage()
        woken = Woken(incarnation=self.incarnation, resumed=recovery.resumed, at=self.now())
        self._inbox.appendleft(Input(woken, born))
        self._wake()

    async def _connect(self, standing: list[Subscription]) -> None:
        """Answer what the core answers, and subscribe to what it listens to."""
        for kind in self.agent.answers():
            subject = wire_of(kind).filter(**self._fixed(kind))
            standing.append(await self.bus.serve(subject, self._answering.responder(kind)))
        interests = [Interest(kind, self._fixed(kind)) for kind in self.agent.listens_to()]
        if interests:
            name = self.name if self._durable else None
            standing.append(await self.bus.subscribe(interests, self._receive, durable=name, start=self._start))

    def _fixed(self, kind: type[msgspec.Struct]) -> dict[str, str]:
        """What the scope fixes of a type's subjects."""
        return {field: self._scope[field] for field in wire_of(kind).fields if field in self._scope}

    async def _leave(self, standing: list[Subscription]) -> None:
        self._stopping.set()
        for handle in (self._alarm, self._usage):
            if handle is not None:
                handle.cancel()
        for subscription in standing:
            with contextlib.suppress(Exception):  # a lost server must not keep the process from ending
                async with asyncio.timeout(1.0):
                    await subscription.stop()
        await self._interpreter.close()
        self._answering.close()
        self._loop = None
        if self._works is not None:
            await self._works.close()
        for task in self._committing:
            task.cancel()
        if self._failure is None:
            self._core.close(self.now())
            if self._commit is not None:
                with contextlib.suppress(BusError, TimeoutError):  # what isn't kept comes again to the next life
                    async with asyncio.timeout(LAST_WORDS):
                        await self._commit()

    # Coming in.

    def _receive(self, message: Message, receipt: Receipt | None) -> None:
        if self._stopping.is_set():
            return
        if receipt is None:
            if self._load.takes_telemetry(len(self._inbox)):
                self._put(Input(message, message.id))
            return
        # A client that is no participant sends no envelope: its message's place in the stream names it instead.
        place = f"client:{wire_of(type(message)).delivery.value}:{receipt.sequence}"
        self._put(Input(message, message.id or place, receipt))

    def _asked(self, request: Request) -> str:
        """A request has come; gives where the core is to send its answer."""
        self._asides += 1
        reply_to = f"{self.source}:{self.incarnation}:ask-{self._asides}"
        self._put(Input(Asked(reply_to=reply_to, request=request, at=time.time())))
        return reply_to

    def _put(self, entry: Input) -> None:
        if not self._stopping.is_set():
            self._inbox.append(entry)
            self._wake()

    def _wake(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    # One turn: the inputs that are there, then the timers that are due; the journal; their effects.

    def _turn(self) -> None:
        self._scheduled = False
        now = self.now()
        steps: list[Step] = []
        try:
            while self._inbox and len(steps) < TURN and self._free(len(steps)):
                self._take(self._inbox.popleft(), now, steps)
            if not self._inbox:
                self._fire(now, steps)
            self._core.flush(now)
        except Exception as error:  # nothing of this turn is carried out or acknowledged; the process ends
            self.fail(error)
            return
        self._under_way += len(steps)
        self._inputs += len(steps)
        repeated, self._repeated = self._repeated, []
        if self._commit is None:
            self._launch(steps, repeated)
        else:
            task = asyncio.get_running_loop().create_task(self._launch_once_kept(self._commit, steps, repeated))
            self._committing.add(task)
        self._rearm(now)

    async def _launch_once_kept(
        self, commit: Callable[[], Awaitable[None]], steps: list[Step], repeated: list[Receipt]
    ) -> None:
        try:
            await commit()
        except Exception as error:
            self.fail(error)
            return
        finally:
            self._committing.discard(asyncio.current_task())
        self._launch(steps, repeated)
        self._rearm(self.now())

    def _launch(self, steps: list[Step], repeated: list[Receipt]) -> None:
        """The turn is kept: its effects begin."""
        if self._failure is not None:
            return
        for step in steps:
            self._interpreter.carry_out(step)
        for receipt in repeated:
            receipt.ack()
        if self._ending:
            self._last_words.set()

    def _free(self, taken: int) -> bool:
        """Whether one more input may be taken: never too many under way, but last words always."""
        if self._stopping.is_set():
            return True
        return self._under_way + taken < UNDER_WAY and not self._core.resting and not self._committing

    def _take(self, entry: Input, now: float, steps: list[Step]) -> None:
        step = self._core.take(entry, now)
        if step is not None:
            steps.append(step)
        elif entry.receipt is not None:
            self._repeated.append(entry.receipt)
        if isinstance(entry.event, Stopping):
            self._inbox.clear()
            self._ending = True

    def _fire(self, now: float, steps: list[Step]) -> None:
        due = self._core.timers.next_due()
        if self._hold is not None and now >= self._hold:
            self._hold = None
        elif due is not None and now - due > LATE and self._hold is None:
            self._hold = now + HEAR_FIRST
        if self._hold is not None or self._ending:
            return
        while len(steps) < TURN and self._free(len(steps)) and (fired := self._core.timers.pop_due(now)) is not None:
            self._take(Input(*fired), now, steps)

    def _rearm(self, now: float) -> None:
        """Arrange for the next turn: at once where something can be taken, else when the next timer is due."""
        if self._loop is None or not self._free(0):
            return  # the end of a step wakes the host
        if self._inbox:
            self._wake()
            return
        due = self._core.timers.next_due()
        if due is not None and self._hold is not None:
            due = max(due, self._hold)
        if due != self._armed_for:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = None if due is None else self._loop.call_later(max(0.0, due - now), self._ring)
            self._armed_for = due

    def _ring(self) -> None:
        self._armed_for = None
        self._wake()

    # Going out.

    def _finished(self, step: Step) -> None:
        """All effects of an input are carried out: acknowledge it, mark it, go on with what had to wait for it."""
        blocked = not self._free(0)
        self._under_way -= 1
        if step.entry.receipt is not None:
            step.entry.receipt.ack()
        if self._core.finished(step) or blocked:
            self._wake()

    def _effect_failed(self, what: str, error: Exception, cause: str) -> None:
        """An effect can't be carried out, and trying again won't mend it: say so and go on."""
        reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
        self._interpreter.store(self._aside(InputFailed(agent=self.name[:64], input=what, reason=reason), cause))

    def _report_usage(self) -> None:
        if self._loop is None or self._stopping.is_set():
            return
        usage = AgentUsage(
            agent=self.name[:64],
            cpu_seconds=cpu_seconds(),
            resident_bytes=resident_bytes(),
            inputs=self._inputs,
            rejected=self._answering.rejected + int(getattr(self.bus, "rejected", 0)),
            dropped=self._load.dropped,
            waiting=len(self._inbox),
        )
        self._interpreter.send(self._aside(usage, ""))
        if told := self._load.news(self.name):
            self._interpreter.store(self._aside(told, ""))
        self._usage = self._loop.call_later(USAGE_EVERY, self._report_usage)

    def _aside(self, message: Message, cause: str) -> Message:
        """A message of the host's own; its id is apart from those that depend on the core's inputs alone."""
        self._asides += 1
        id = f"{self.source}:{self.incarnation}:host-{self._asides}"
        return seal(message, id=id, cause=cause, at=self.now(), source=self.source)

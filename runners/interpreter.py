"""Carries out the effects of inputs: what has to be stored is stored, then the client is answered, then it is done."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from agents.effects import Effect, Probe, Publish, Purge, Reach, Reply, StartWork, StopWork, Store, Work
from agents.inputs import ProbeReturned, Reached, Result
from bus.port import Bus, BusError, NoResponders, NoRoom, SubjectTaken, Unreachable
from runners.load import UNSENT
from runners.steps import Step, lasting
from schemas.decisions import InputFailed
from schemas.health import Outcome, ReachNode
from schemas.wire import Delivery, Message, encode, subject_of, wire_of

log = logging.getLogger("shoal.host")
# Seconds between attempts while the server is out of reach; the carrier's own time-out comes on top.
RETRY = 0.5
# Seconds between attempts while the server has no room: as many as 512 messages may be trying.
NO_ROOM_RETRY = 2.0

Wait = Callable[[], Coroutine[Any, Any, None]]


class WorkRunner(Protocol):
    """Carries out `StartWork` and `StopWork` for a host. Neither may block; results come back through `post`."""

    def start(self, key: str, work: Work, post: Callable[[Result], None]) -> None:
        """Begin a piece of work; a key at work already is left alone.

        `post` brings its results in, from the loop's thread.
        """

    def stop(self, key: str, reason: str) -> None:
        """End a piece of work, gently and then by force; `WorkExited` follows. Nothing happens where there is none."""

    async def close(self) -> None:
        """End all work; the host calls it when it ends."""


class HistoryStore(Protocol):
    """Carries out `Store` for a host."""

    async def store(self, table: str, row: dict[str, Any]) -> None:
        """Keep a row; the same row may come twice after a kill (rows have keys of their own)."""


class Interpreter:
    """Carries out effects on a bus, with a work runner and a history store where the core needs them.

    Attributes:
        full: why the server stores nothing now, in its words; empty while it does.

    Args:
        post: brings a result in as an input, with its cause.
        answer: gives a client its answer.
        finished: called once with each step when all its effects are carried out.
        failed: called with a text and a cause where an effect can't be carried out.
        unsent: called for each message of telemetry that had to make room for newer ones.
    """

    def __init__(
        self,
        bus: Bus,
        source: str,
        works: WorkRunner | None,
        history: HistoryStore | None,
        *,
        post: Callable[[Result, str], None],
        answer: Callable[[str, bytes], None],
        finished: Callable[[Step], None],
        failed: Callable[[str, Exception, str], None],
        unsent: Callable[[], None] = lambda: None,
    ) -> None:
        self.full = ""
        self._bus = bus
        self._source = source
        self._works = works
        self._history = history
        self._post = post
        self._answer = answer
        self._finished = finished
        self._failed = failed
        self._unsent = unsent
        self._tails: dict[str, asyncio.Event] = {}
        self._telemetry: deque[Message] = deque()
        self._sending = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._probes: set[asyncio.Task[None]] = set()

    def carry_out(self, step: Step, again: bool = False) -> None:
        """Begin a step's effects; `finished` follows, at once where nothing has to be waited for.

        `again`: an earlier life was cut short in it; only what is still of use is carried out.
        """
        stored: dict[str, list[tuple[Publish, str]]] = {}
        waits: list[Wait] = []
        replies: list[Reply] = []
        for ordinal, effect in enumerate(step.effects):
            if again and not lasting(effect):
                continue
            if type(effect) is Publish:
                if wire_of(type(effect.message)).delivery is Delivery.TELEMETRY:
                    self.send(effect.message)
                else:
                    name = f"{self._source}:{step.identity}:{ordinal}"
                    stored.setdefault(subject_of(effect.message), []).append((effect, name))
            elif type(effect) is Reply:
                replies.append(effect)
            elif isinstance(effect, Store | Purge):
                waits.append(partial(self._keep, effect, step.entry.cause))
            else:
                self._begin(effect, step.entry.cause)
        done = asyncio.Event()
        for subject, named in stored.items():
            waits.append(partial(self._publish, named, self._tails.get(subject)))
            self._tails[subject] = done
        if waits:
            self._spawn(self._finish(step, waits, replies, list(stored), done))
        else:
            self._end(step, replies)

    def send(self, message: Message) -> None:
        """Publish telemetry, in order, at most once."""
        if len(self._telemetry) >= UNSENT:
            self._telemetry.popleft()
            self._unsent()
        self._telemetry.append(message)
        if not self._sending:
            self._sending = True
            self._spawn(self._send())

    def store(self, message: Message, cause: str = "") -> None:
        """Publish a sealed message that no input led to (what the host says of itself)."""
        self._spawn(self._persist(message, message.id, first=False))

    async def quiet(self) -> None:
        """Wait until nothing is under way but probes."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Give up what is still under way."""
        tasks = self._tasks | self._probes
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Each kind of effect.

    async def _send(self) -> None:
        while self._telemetry:
            with contextlib.suppress(BusError):  # at most once: the next one makes it good
                await self._bus.publish(self._telemetry.popleft())
        self._sending = False

    async def _publish(self, named: list[tuple[Publish, str]], after: asyncio.Event | None) -> None:
        """One subject's messages, one after the other, after those of the step that used it before."""
        if after is not None:
            await after.wait()
        for effect, name in named:
            await self._persist(effect.message, name, effect.first)

    async def _persist(self, message: Message, dedup: str, first: bool) -> None:
        """Until it is stored: nothing that was decided is lost to a server that restarts."""
        while True:
            try:
                await self._bus.publish(message, dedup=dedup, first=first)
                self.full = ""
                return
            except SubjectTaken:
                self.full = ""
                return
            except Unreachable:
                self.full = "its streams do not answer"  # tried for long already
                await asyncio.sleep(RETRY)
            except NoRoom as error:
                self.full = error.why
                await asyncio.sleep(NO_ROOM_RETRY)
            except BusError as error:
                self.full = ""  # the server answers, if only that it never will
                if isinstance(message, InputFailed):  # the telling of it would fail likewise
                    log.error("%s can't be told: %s", message.input, error)
                    return
                self._failed(f"Publish {type(message).__name__}", error, message.cause)
                return

    async def _keep(self, effect: Store | Purge, cause: str) -> None:
        try:
            if isinstance(effect, Purge):
                await self._bus.purge(effect.subjects)
            elif self._history is None:
                raise LookupError("this host has no history store")
            else:
                await self._history.store(effect.table, effect.row)
        except Exception as error:  # a full disk must not stop the agent; it is told
            what = effect.subjects if isinstance(effect, Purge) else effect.table
            self._failed(f"{type(effect).__name__} {what}", error, cause)

    async def _probe(self, effect: Probe, cause: str) -> None:
        try:
            rtt = await self._bus.round_trip(effect.timeout)
        except BusError:
            rtt = None
        retransmitted = getattr(self._bus, "retransmitted", None)
        share = retransmitted() if callable(retransmitted) else None
        self._post(ProbeReturned(sequence=effect.sequence, rtt=rtt, retransmitted=share), cause)

    async def _reach(self, effect: Reach, cause: str) -> None:
        asked, begun = ReachNode(node=effect.node), time.monotonic()
        outcome: Outcome = "answered"
        try:
            await self._bus.request(subject_of(asked), encode(asked), effect.timeout)
        except NoResponders:
            outcome = "absent"
        except BusError:
            outcome = "silent"
        rtt = time.monotonic() - begun if outcome == "answered" else None
        self._post(Reached(node=effect.node, ticket=effect.ticket, outcome=outcome, rtt=rtt), cause)

    def _begin(self, effect: Effect, cause: str) -> None:
        """What brings its results in later. Timers are the host's."""
        if type(effect) is Reach:
            self._spawn(self._reach(effect, cause), self._probes)
            return
        if type(effect) is Probe:
            self._spawn(self._probe(effect, cause), self._probes)
            return
        if type(effect) is not StartWork and type(effect) is not StopWork:
            return
        try:
            if self._works is None:
                raise LookupError("this host has no work runner")
            if isinstance(effect, StartWork):
                self._works.start(effect.key, effect.work, lambda result: self._post(result, cause))
            else:
                self._works.stop(effect.key, effect.reason)
        except Exception as error:  # a runner's fault must not end the agent that asked
            self._failed(f"{type(effect).__name__} {effect.key}", error, cause)

    # The end of a step.

    async def _finish(
        self,
        step: Step,
        waits: list[Wait],
        replies: list[Reply],
        subjects: list[str],
        done: asyncio.Event,
    ) -> None:
        try:
            if len(waits) == 1:
                await waits[0]()
            else:
                await asyncio.gather(*[wait() for wait in waits])
        finally:
            done.set()
            for subject in subjects:
                if self._tails.get(subject) is done:
                    del self._tails[subject]
        self._end(step, replies)

    def _end(self, step: Step, replies: list[Reply]) -> None:
        for reply in replies:
            self._answer(reply.to, encode(reply.answer))
        self._finished(step)

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]] | None = None) -> None:
        tasks = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

"""Getting a whole tensor from its holder: what was streamed is taken, what is missing is asked for, again if need be."""

import asyncio
import itertools
import secrets
import time
from contextlib import suppress

import msgspec
from nats import errors

from bus.port import BusError
from bus.tensor_assembly import Incoming
from bus.tensor_frames import CHUNK, WINDOW, chunks_of, content_of
from bus.tensor_incoming import Inbox, Pull
from bus.tensor_laggard import FEWEST, laggard, slots_without
from bus.tensor_lanes import Lanes
from bus.tensor_outgoing import Answer, Ask
from schemas.errors import FAULTS

_LOOK = 2.0  # seconds of silence after which the holder is asked whether it is still there
_LOST_AFTER = 10.0  # seconds of silence after which chunks under way count as lost: more than one takes on the worst link
_GAPS = 3.0  # times the longest pause between chunks so far, if that is more
_ANSWER_TIMEOUT = 5.0  # seconds for a holder's answer, over a bad link and from a busy process
_RETURNS_WITHIN = 4.0  # seconds in which a holder that was there a moment ago may come back: twice the longest back-off
_RETURN_PAUSE = 0.2  # seconds between looks meanwhile
_ATTEMPTS = 3  # times that a tensor may come with the wrong hash
_AHEAD = WINDOW // CHUNK  # chunks that may be under way
_TAIL = 8  # the last eighth of the chunks, or one connection's share, is asked for besides, once, if it keeps one waiting
_TAIL_PATIENCE = 0.2  # seconds that it may take: longer than TCP takes to notice a loss and mend it over a link of 100 ms
_TAIL_SLOWER = 0.5  # times what all before it took, if that is longer: three to four times what it would take at that pace


class TensorUnavailable(BusError):
    """A tensor can't be had from this holder: it is gone, has dropped it, or is too slow. The message says which."""


class Fetch:
    """One attempt to get one tensor."""

    def __init__(self, lanes: Lanes, inbox: Inbox, job: str, node: str, key: tuple[str, str, str], stall: float) -> None:
        self._lanes = lanes
        self._inbox = inbox
        self._job = job
        self._node = node
        self._holder, self._kind, self._name = key
        self._key = key
        self._stall = stall
        self._what = f"{self._kind}/{self._name} of {self._holder}"
        self._prefix = secrets.token_hex(6)
        self._number = itertools.count()
        self._alive_at = float("-inf")
        self._pulls: dict[str, Pull] = {}
        self._hurried = False
        self._tail_at = 0.0

    async def get(self, size: int, digest: str, timeout: float) -> memoryview:
        """The tensor's bytes. Raises `TensorUnavailable`."""
        incoming = self._inbox.expect(self._key, size, content_of(digest))
        done = False
        try:
            async with asyncio.timeout(timeout):
                for _ in range(_ATTEMPTS):
                    await self._fill(incoming, digest)
                    data = await incoming.whole(digest)
                    if data is not None:
                        done = True
                        return data
                    incoming.broadcasting = False  # damaged chunks are asked for one by one
            raise TensorUnavailable(f"{self._what} came damaged {_ATTEMPTS} times: ask another holder")
        except TimeoutError:
            raise TensorUnavailable(
                f"{self._what} did not come within {timeout:g} s: "
                f"{incoming.missing * incoming.chunk} of {size} bytes are missing"
            ) from None
        finally:
            for token in self._pulls:
                self._inbox.pulls.pop(token, None)
            self._inbox.release(self._key, incoming, done=done)

    async def latest(self, timeout: float) -> Answer:
        """What the holder made of this kind on demand. Raises `TensorUnavailable`."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    with suppress(_NotBackYet):
                        return await self._ask(Ask(op="latest", kind=self._kind), timeout)
        except (TimeoutError, _NoAnswerYet) as error:
            raise TensorUnavailable(f"{self._holder} did not come up with a {self._kind} within {timeout:g} s") from error

    async def _fill(self, incoming: Incoming, digest: str) -> None:
        """Returns when no chunk is missing."""
        now = time.monotonic()
        incoming.begin(now)
        quiet_since = now
        while incoming.missing:
            moves = incoming.moves
            if incoming.broadcasting is None:
                await self._learn(incoming, digest)
            if not incoming.broadcasting and await self._ask_for_more(incoming):
                quiet_since = max(quiet_since, time.monotonic() - _LOOK)
            incoming.hash_ahead()
            hurry = self._may_hurry(incoming)
            if await self._moved(incoming, moves, self._tail_due(incoming) - time.monotonic() if hurry else _LOOK):
                quiet_since = self._alive_at = incoming.last_at
                continue
            if hurry:
                self._hurry(incoming)
                continue
            silence = time.monotonic() - quiet_since
            if silence >= self._stall:
                raise TensorUnavailable(f"{self._what} stalled: nothing came for {silence:.0f} s")
            await self._learn(incoming, digest, lost=silence >= max(_LOST_AFTER, _GAPS * incoming.longest_gap))

    def _may_hurry(self, incoming: Incoming) -> bool:
        """Whether so little is missing that it may be asked for although it is under way.

        A connection that lost a segment twice stands still for a second or more, and with it the whole tensor. What is
        asked for comes by other ones (hedged requests: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013).
        """
        count, lanes = chunks_of(incoming.total), len(self._lanes.lanes)
        tail = max(count // _TAIL, -(-count // lanes) if lanes >= FEWEST else 0)
        return not self._hurried and incoming.longest_gap < _LOOK and incoming.missing <= tail

    def _tail_due(self, incoming: Incoming) -> float:
        """When what is missing is asked for once more (`time.monotonic`).

        Connections have equal parts of a tensor, and paces of their own: one that was throttled may bring its part for
        seconds, chunk by chunk, while the others stand idle. So it is the tail's time that counts, not the last chunk's.
        """
        if not self._tail_at:
            self._tail_at = time.monotonic()
        before = self._tail_at - (incoming.begun_at or self._tail_at)
        return self._tail_at + max(_TAIL_PATIENCE, incoming.longest_gap, _TAIL_SLOWER * before)

    def _hurry(self, incoming: Incoming) -> None:
        """Ask once more for what is missing, and wait for no answer: it may come without."""
        self._hurried = True
        count, lanes = chunks_of(incoming.total), len(self._lanes.lanes)
        wanted = [index for index in range(count) if not incoming.has(index)]
        ask = self._ask_to_get(incoming, wanted)
        lane = laggard(wanted, count, lanes) if incoming.broadcasting else None
        if lane is not None:
            ask.slots = slots_without(lane, lanes)
            self._lanes.renew_soon(lane)
        self._lanes.control.post(f"tensor.{self._job}.{self._holder}.fetch.{self._node}", msgspec.json.encode(ask))

    def _ask_to_get(self, incoming: Incoming, wanted: list[int]) -> Ask:
        token = f"{self._prefix}-{next(self._number)}"
        self._pulls[token] = self._inbox.pulls[token] = Pull(incoming, set(wanted))
        return Ask(op="get", kind=self._kind, name=self._name, to=self._node, token=token, chunks=spans(wanted))

    async def _moved(self, incoming: Incoming, moves: int, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await incoming.moved(moves)
        except TimeoutError:
            return False
        return True

    async def _learn(self, incoming: Incoming, digest: str, *, lost: bool = False) -> None:
        """Ask the holder how things stand. Raises where it is gone or no longer has this tensor."""
        asked_at = time.monotonic()
        try:
            status = await self._ask(Ask(op="status", kind=self._kind, name=self._name), _ANSWER_TIMEOUT)
        except _NoAnswerYet:
            return
        if status.digest != digest:
            raise TensorUnavailable(f"{self._what} is another one now: its holder has made it anew")
        if incoming.broadcasting is None or lost:
            incoming.broadcasting = status.streaming and self._inbox.hears(self._kind, asked_at - status.age)
        if lost:
            for pull in self._pulls.values():
                pull.waiting.clear()

    async def _ask_for_more(self, incoming: Incoming) -> bool:
        """Have up to a window's chunks under way, topped up when half of it has come; whether any were asked for."""
        under_way: set[int] = set().union(*(pull.waiting for pull in self._pulls.values()))
        if len(under_way) > _AHEAD // 2:
            return False
        free = (i for i in range(chunks_of(incoming.total)) if not incoming.has(i) and i not in under_way)
        wanted = list(itertools.islice(free, _AHEAD - len(under_way)))
        if not wanted:
            return False
        for token in [token for token, pull in self._pulls.items() if not pull.waiting]:
            del self._pulls[token]
            self._inbox.pulls.pop(token, None)
        ask = self._ask_to_get(incoming, wanted)
        while incoming.missing:
            try:
                await self._ask(ask, _ANSWER_TIMEOUT)
            except _NotBackYet:
                continue
            except _NoAnswerYet:
                return False
            return True
        return False

    async def _ask(self, ask: Ask, timeout: float) -> Answer:
        subject = f"tensor.{self._job}.{self._holder}.fetch.{self._node}"
        try:
            await self._lanes.control.wait_up(timeout)
            reply = await self._lanes.control.request(subject, msgspec.json.encode(ask), timeout)
        except errors.NoRespondersError:
            # A server that was restarted has its clients back within seconds, but not all in the same moment; and a link
            # may fail for a moment in the midst of a transfer.
            if time.monotonic() - max(self._alive_at, self._lanes.control.back_at) < _RETURNS_WITHIN:
                await asyncio.sleep(_RETURN_PAUSE)
                raise _NotBackYet from None
            raise TensorUnavailable(f"{self._what} can't be had: {self._holder} is gone; ask another holder") from None
        except (TimeoutError, errors.Error, BusError) as error:
            raise _NoAnswerYet from error
        self._alive_at = time.monotonic()
        try:
            answer = msgspec.json.decode(reply, type=Answer)
        except FAULTS as error:
            raise TensorUnavailable(f"{self._what} can't be had: {self._holder} answers nonsense ({error})") from None
        if not answer.found:
            raise TensorUnavailable(f"{self._what} can't be had: {answer.reason}")
        return answer


class _NoAnswerYet(Exception):
    """The holder is there, or was a moment ago, but has not answered."""


class _NotBackYet(_NoAnswerYet):
    """It was there a moment ago, and has not heard the question."""


def spans(indexes: list[int]) -> list[tuple[int, int]]:
    """Ascending indexes as (first, last) of each unbroken run."""
    found: list[tuple[int, int]] = []
    for index in indexes:
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found

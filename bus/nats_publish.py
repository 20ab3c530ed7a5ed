"""Publishing into streams: many at a time, each until its acknowledgement, across reconnections."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.js.api import Header
from nats.js.errors import NotFoundError

from bus.nats_link import Link
from bus.nats_streams import JOURNAL, STREAM_OF
from bus.port import BusError, NoRoom, SubjectTaken, Unreachable
from schemas.errors import FAULTS

log = logging.getLogger("shoal.bus")

_WINDOW = 512  # publishes without an acknowledgement: the rate is flat from 256 on, and the server's own queue holds 10,000
_RESEND_AFTER = 3.0  # seconds without an acknowledgement on a standing connection; a bad link's round trip is under two
_SWEEP = 0.5  # seconds between looks at what is late, while anything is under way
_RETRY_PAUSE = 0.05  # seconds before asking a server again whose stream isn't there yet
_DISTANT_PAUSE = 0.5  # seconds before it where the stream is on other servers, which may be away for long
_WRONG_LAST_SEQUENCE = (10071, 10164)  # JetStream's error codes for a lost compare-and-set
# And, on a cluster, for what says no more than "not now": the first copy of this very message is still being agreed on, the
# cluster has no leader at the moment.
_NOT_NOW = (10158, 10008)
# For limits of the account, resources of the server, its memory and its disk, and a store that failed (as at `max_bytes`).
_NO_ROOM = (10002, 10023, 10028, 10047, 10077)


class _Refusal(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _Refusal | None = None


_ACK = msgspec.json.Decoder(_Ack)


class _UnderWay:
    """One publish that has not been acknowledged."""

    __slots__ = ("data", "deadline", "done", "headers", "reply", "sent_at", "subject")

    def __init__(self, subject: str, data: bytes, headers: dict[str, str], reply: str, now: float, timeout: float) -> None:
        self.subject = subject
        self.data = data
        self.headers = headers
        self.reply = reply
        self.deadline = now + timeout
        self.sent_at = now
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class StreamPublisher:
    """Stores messages. Each carries an id by which the server drops a second copy, so it may be sent again at any time."""

    def __init__(self, link: Link, timeout: float, repair: Callable[[], Awaitable[None]]) -> None:
        """`timeout`: seconds until a publish gives up. `repair`: makes the streams that have gone missing."""
        self._link = link
        self._timeout = timeout
        self._repair = repair
        self._window = asyncio.Semaphore(_WINDOW)
        self._under_way: dict[str, _UnderWay] = {}
        self._number = itertools.count()
        self._prefix = ""
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen for acknowledgements, all on one subscription."""
        self._prefix = self._link.nc.new_inbox() + "."
        await self._link.nc.subscribe(self._prefix + "*", cb=self._answered)
        self._link.on_back.append(self._send_all_again)

    async def store(
        self, subject: str, data: bytes, dedup: str, first: bool, *, rollup: bool = False, after: int | None = None
    ) -> int:
        """Returns its sequence once the stream has it; with `rollup` as the only one on its subject.

        Raises:
            SubjectTaken: with `first`, when another message is there; with `after`, when the last has another sequence.
            Unreachable: not stored in time.
            NoRoom: the stream takes nothing now.
            BusError: the stream refuses it.
        """
        headers = {Header.MSG_ID.value: dedup}
        if first or after is not None:
            headers[Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value] = str(after or 0)
        if rollup:
            headers[Header.ROLLUP.value] = "sub"
        async with self._window:
            key = str(next(self._number))
            now = asyncio.get_running_loop().time()
            entry = _UnderWay(subject, data, headers, self._prefix + key, now, self._timeout)
            self._under_way[key] = entry
            if self._sweeper is None:
                self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
            try:
                await self._send(entry)
                return await entry.done
            except _Conflict:
                stored_by, sequence = await self._newest(subject)
                if stored_by != dedup:
                    raise SubjectTaken(f"{subject} holds a message already: another writer was first") from None
                return sequence
            finally:
                del self._under_way[key]

    async def _send(self, entry: _UnderWay) -> None:
        if not self._link.up:
            return  # sent when the link is back
        await self._link.flush()
        try:
            await self._link.nc.publish(entry.subject, entry.data, entry.reply, entry.headers)
        except errors.ConnectionClosedError:
            if not entry.done.done():
                entry.done.set_exception(Unreachable(f"the connection to {self._link.address} was closed"))
        except errors.OutboundBufferLimitError:
            pass  # lost in this very moment; sent when it is back

    async def _answered(self, msg: Msg) -> None:
        key = msg.subject[len(self._prefix) :]
        entry = self._under_way.get(key)
        if entry is None or entry.done.done():
            return
        if msg.headers and "Status" in msg.headers:
            self._later(self._find_stream(entry))
            return
        try:
            ack = _ACK.decode(msg.data)
        except FAULTS as error:
            entry.done.set_exception(BusError(f"{entry.subject} is answered by something that is no stream: {error}"))
            return
        if ack.error is None:
            entry.done.set_result(ack.seq)
        elif ack.error.err_code in _WRONG_LAST_SEQUENCE:
            entry.done.set_exception(_Conflict())
        elif ack.error.err_code in _NOT_NOW:
            pass  # sent again, as what isn't acknowledged
        elif ack.error.err_code in _NO_ROOM:
            entry.done.set_exception(NoRoom(entry.subject, ack.error.description))
        else:
            entry.done.set_exception(BusError(f"the stream refused {entry.subject}: {ack.error.description}"))

    async def _find_stream(self, entry: _UnderWay) -> None:
        """Nobody took the message: JetStream is still starting, or the store is a new one without our streams."""
        await asyncio.sleep(_DISTANT_PAUSE if self._link.distant else _RETRY_PAUSE)
        with contextlib.suppress(Unreachable):
            await self._repair()
        if not entry.done.done():
            await self._send(entry)

    async def _newest(self, subject: str) -> tuple[str, int]:
        """Dedup id and sequence of the newest message on a subject: it may be ours, its acknowledgement lost."""
        js = self._link.nc.jetstream(timeout=self._timeout)
        for stream in STREAM_OF.values() if subject.startswith("shoal.") else (JOURNAL,):
            try:
                # Of the stream's leader, not directly of whichever server is nearest: that one may not have it yet.
                found = await js.get_last_msg(stream, subject)
                return str((found.headers or {}).get(Header.MSG_ID.value, "")), int(found.seq or 0)
            except NotFoundError:
                continue
            except errors.Error as error:
                raise Unreachable(f"{subject}: whether it was stored can't be told ({error}); do it again") from error
        return "", 0

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for entry in self._under_way.values():
            if entry.done.done():
                continue
            if now >= entry.deadline:
                why = "took too long to store it" if self._link.up else "is out of reach"
                entry.done.set_exception(
                    Unreachable(f"{entry.subject} was not stored: {self._link.address} {why}; is the server up?")
                )
            elif self._link.up and now - entry.sent_at >= _RESEND_AFTER:
                entry.sent_at = now
                self._later(self._send(entry))
        if self._under_way:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def _send_all_again(self) -> None:
        self._later(self._resend())

    async def _resend(self) -> None:
        for entry in tuple(self._under_way.values()):
            if not entry.done.done():
                entry.sent_at = asyncio.get_running_loop().time()
                await self._send(entry)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, patience: float) -> None:
        """Returns when everything under way has been stored; after `patience` seconds the rest gives up."""
        if self._under_way:
            await asyncio.wait([entry.done for entry in self._under_way.values()], timeout=patience)
        for entry in self._under_way.values():
            if not entry.done.done():
                entry.done.set_exception(Unreachable(f"{entry.subject} was not stored before this participant closed"))
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in tuple(self._tasks):
            task.cancel()


class _Conflict(Exception):
    """The compare-and-set was lost."""

"""One TCP connection that speaks as much of the NATS protocol as chunks need, with as few copies as there can be.

nats-py copies each payload three times on its way in and twice on its way out, and takes it in by 32 KiB. Here the kernel
writes a payload into one buffer, which is used for the next one as soon as its receiver has taken what it wants, and a
payload goes out from where it lies. Everything else that a client does (JetStream, requests, drains) stays with nats-py.

Protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

log = logging.getLogger("shoal.bus")

Heard = Callable[[str, memoryview, int], None]
"""Takes (subject, payload, status). The payload is only good during the call; the status is 503 for "nobody listens"."""

_LARGEST = 64 * 1024 * 1024  # bytes of a message: what a nats-server lets its own limit be set to; one that says more lies
_SCRATCH = 16 * 1024  # bytes for control lines: the longest is 4 KiB; a payload's beginning that comes along is copied once


class Connection(asyncio.BufferedProtocol):
    """One connection, from its first byte to its last.

    Attributes:
        info: what the server says of itself when greeting.
        error: what it, or this end, gave as the reason for the end.
        ended: told when it is over.
        subscriptions: whom to tell of messages, by subscription id.
    """

    def __init__(self, subscriptions: dict[int, Heard], ended: "Callable[[Connection], None]", write_ahead: int) -> None:
        """`write_ahead`: bytes that a publish leaves to the socket without waiting."""
        loop = asyncio.get_running_loop()
        self.info: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.error = ""
        self.ended = ended
        self.subscriptions = subscriptions
        self._write_ahead = write_ahead
        self.unanswered: deque[asyncio.Future[None]] = deque()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._scratch = bytearray(_SCRATCH)
        self._filled = 0
        self._body = bytearray()
        self._need = 0  # bytes of the message under way, its line break included; 0 between messages
        self._have = 0
        self._subject, self._sid, self._headers = "", 0, 0

    @property
    def transport(self) -> asyncio.Transport:
        """Where bytes go. Raises `ConnectionResetError` when it is over."""
        if self._transport is None:
            raise ConnectionResetError(self.error or "the connection ended")
        return self._transport

    def use(self, transport: asyncio.Transport) -> None:
        """Go on over another transport: the same connection, encrypted."""
        self._transport = transport
        transport.set_write_buffer_limits(high=self._write_ahead)

    def write_ahead(self, size: int) -> None:
        """Have a publish leave so many bytes to the socket without waiting."""
        self._write_ahead = size
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=size)

    def write(self, line: bytes) -> None:
        """Send a control line."""
        self.transport.write(line)

    async def publish(self, subject: str, parts: Sequence[bytes | memoryview], reply: str) -> None:
        """Send a message made of `parts`, which are not copied; returns when the socket may take more."""
        line = f"PUB {subject} {reply} {sum(map(len, parts))}\r\n".encode()
        self.transport.writelines((line, *parts, b"\r\n"))
        if not self._writable.is_set():
            await self._writable.wait()
            if self._transport is None:
                raise ConnectionResetError(self.error or "the connection ended")

    def ping(self) -> "asyncio.Future[None]":
        """Done when the server has taken everything sent before, and everything that it sent before has been heard."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport.write(b"PING\r\n")
        self.unanswered.append(pong)
        return pong

    def abort(self, why: str) -> None:
        """End it now."""
        self.error = self.error or why
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._writable.set()
        self.use(cast(asyncio.Transport, transport))  # uvloop's is one in all but its ancestry

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._transport is None:
            return
        self._transport = None
        self._writable.set()
        lost = ConnectionResetError(self.error or str(exc or "the connection ended"))
        waiters: list[asyncio.Future[Any]] = [self.info, *self.unanswered]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(lost)
                waiter.exception()  # nobody may be waiting any more
        self.ended(self)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It takes more."""
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go; within a message straight to its place."""
        if self._need:
            return memoryview(self._body)[self._have : self._need]
        return memoryview(self._scratch)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        if self._need:
            self._have += nbytes
            if self._have == self._need:
                self._deliver()
            return
        self._filled += nbytes
        try:
            self._parse()
        except (ValueError, IndexError, RecursionError, ConnectionResetError) as error:
            self._filled = self._need = 0
            self.abort(f"it doesn't speak NATS: {error}")

    # The protocol.

    def _parse(self) -> None:
        """Take all whole lines from the scratch buffer, and what has come of the payload after the last."""
        start, scratch = 0, self._scratch
        while True:
            end = scratch.find(b"\r\n", start, self._filled)
            if end < 0:
                break
            line = bytes(memoryview(scratch)[start:end])
            start = end + 2
            self._control(line)
            if self._need:
                here = min(self._filled - start, self._need)
                self._body[:here] = memoryview(scratch)[start : start + here]
                self._have = here
                start += here
                if here < self._need:
                    break
                self._deliver()
        rest = self._filled - start
        if rest >= _SCRATCH:
            raise ValueError("a line without an end")
        scratch[:rest] = scratch[start : self._filled]
        self._filled = rest

    def _control(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        match word.upper():
            case b"MSG":
                self._begin(rest.split(), with_headers=False)
            case b"HMSG":
                self._begin(rest.split(), with_headers=True)
            case b"PING":
                self.write(b"PONG\r\n")
            case b"PONG":
                if self.unanswered and not (pong := self.unanswered.popleft()).done():
                    pong.set_result(None)
            case b"INFO":
                info = json.loads(rest)
                if not isinstance(info, dict):
                    raise ValueError("a greeting without facts")
                if not self.info.done():
                    self.info.set_result(info)
            case b"-ERR":
                self.error = rest.decode(errors="replace").strip("' ")
                log.warning("the server says: %s", self.error)
            case b"+OK":
                pass
            case _:
                raise ValueError(repr(line[:40]))

    def _begin(self, words: list[bytes], *, with_headers: bool) -> None:
        """The line of a message: subject, subscription, perhaps where to reply, perhaps the size of headers, size."""
        size = int(words[-1])
        self._headers = int(words[-2]) if with_headers else 0
        if not 0 <= self._headers <= size <= _LARGEST:
            raise ValueError("sizes that can't be")
        self._subject, self._sid = words[0].decode(), int(words[1])
        self._need, self._have = size + 2, 0
        if len(self._body) < self._need:
            self._body = bytearray(self._need)

    def _deliver(self) -> None:
        payload = memoryview(self._body)[self._headers : self._need - 2]
        status = 0
        if self._headers:
            # `NATS/1.0 503` is the server's own word; a client's headers have no number there.
            words = bytes(self._body[: self._headers]).split(None, 2)
            status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        self._need = 0
        heard = self.subscriptions.get(self._sid)
        if heard is not None:
            try:
                heard(self._subject, payload, status)
            except Exception:
                log.exception("a message on %s was dropped", self._subject)

"""One relayed connection: two sockets, and between them a lane each way in which bytes wait for their time."""

import asyncio
import enum
import random
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from bus.shaping.congestion import MSS, TcpPath, retransmission_delay
from bus.shaping.link import LARGEST_READ, Pacer, RoundTrip, Transmitter

TIMER_GRAIN = 0.0005
"""Seconds by which bytes may be early: event loops round timers to milliseconds, and spinning until then would cost CPU."""

WRITE_BUFFER = 256 * 1024
"""Bytes that may wait in front of a receiving socket before its lane stops delivering."""


class Mark(enum.Enum):
    """What travels in a lane besides bytes, in order with them."""

    END = enum.auto()
    """The sender said that nothing follows."""
    RESET = enum.auto()
    """The sender's connection broke."""


class Lane:
    """One direction of one connection: reads no faster than congestion control sends, delivers when the link would.

    Reading stops while the sender has no credit, the link's queue is full, or `bound` bytes are under way; the kernel's
    socket buffers then fill and the sender feels it. Nothing runs while nothing flows: timers exist only for bytes.
    """

    def __init__(self, path: TcpPath, bound: int, link: Transmitter, round_trip: RoundTrip, rng: random.Random) -> None:
        self.pacer = Pacer(path)
        self.bound = bound
        self.held = 0
        self.delivered = 0
        self.finished = False
        self._link = link
        self._round_trip = round_trip
        self._rng = rng
        self._buffer = memoryview(bytearray(LARGEST_READ))
        self._offered = 0
        self._waiting: deque[tuple[float, bytes | Mark]] = deque()
        self._due = 0.0
        self._blocked = False
        self._reading = False
        self._closed = False
        self._source: asyncio.Transport | None = None
        self._sink: asyncio.Transport | None = None
        self._on_finish: Callable[[], None] = lambda: None
        self._reader: asyncio.TimerHandle | None = None
        self._writer: asyncio.TimerHandle | None = None

    def start(self, source: asyncio.Transport, sink: asyncio.Transport, on_finish: Callable[[], None]) -> None:
        """Carry bytes from `source`, whose reading is paused, to `sink`; `on_finish` is called after the end is written."""
        self._source, self._sink, self._on_finish = source, sink, on_finish
        sink.set_write_buffer_limits(high=WRITE_BUFFER)
        self._deliver()

    def change(self, path: TcpPath, bound: int) -> None:
        """Go on over another path; what is under way keeps its time of arrival."""
        self.pacer.change(time.monotonic(), path)
        self.bound = bound
        self._read_on()

    def room(self) -> memoryview:
        """Where the next read goes, as long as the sender's credit; at least one segment."""
        self._offered = max(MSS, min(self.pacer.credit(time.monotonic()), LARGEST_READ))
        return self._buffer[: self._offered]

    def received(self, count: int) -> None:
        """Take in bytes that were read into `room()`."""
        now = time.monotonic()
        self.pacer.spend(now, count)
        more_follows = count == self._offered or self.pacer.wait(now) > 0.0
        late = retransmission_delay(self.pacer.path, -(-count // MSS), more_follows, self._rng)
        self._push(self._link.send(now, count) + self._round_trip.at(now) / 2 + late, bytes(self._buffer[:count]))
        self.held += count
        self._read_on()

    def end(self, mark: Mark) -> None:
        """No more bytes will come from the source: say so to the sink in its time."""
        self._stop_reading()
        if not self._closed:
            now = time.monotonic()
            self._push(now + self._link.backlog(now) + self._round_trip.at(now) / 2, mark)
        self._source = None

    def block(self, blocked: bool) -> None:
        """The sink takes no more for now, or takes more again."""
        self._blocked = blocked
        if not blocked:
            self._deliver()

    def close(self) -> None:
        """Drop what is under way."""
        self._closed = True
        self._stop_reading()
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None
        self._waiting.clear()
        self.held = 0
        self._source = self._sink = None

    def _push(self, due: float, item: bytes | Mark) -> None:
        self._due = max(self._due, due)
        self._waiting.append((self._due, item))
        if self._writer is None and not self._blocked:
            self._deliver()

    def _deliver(self) -> None:
        """Write what is due, and come back when the next is."""
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None
        horizon = time.monotonic() + TIMER_GRAIN
        while self._waiting and self._waiting[0][0] <= horizon and not self._blocked and self._sink is not None:
            item = self._waiting.popleft()[1]
            if isinstance(item, Mark):
                self._finish(self._sink, item)
                continue
            self.held -= len(item)
            self.delivered += len(item)
            self._sink.write(item)
        if self._waiting and not self._blocked and self._sink is not None:
            later = max(TIMER_GRAIN, self._waiting[0][0] - time.monotonic())
            self._writer = asyncio.get_running_loop().call_later(later, self._deliver)
        self._read_on()

    def _finish(self, sink: asyncio.Transport, mark: Mark) -> None:
        self.finished = True
        if mark is Mark.RESET:
            sink.abort()
        elif not sink.is_closing():
            sink.write_eof()
        self._on_finish()

    def _read_on(self) -> None:
        """Read, or come back when there is room and credit again."""
        if self._source is None or self._source.is_closing():
            return
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        now = time.monotonic()
        wait = max(self.pacer.wait(now), self._link.wait(now))
        if self.held < self.bound and wait <= 0.0:
            if not self._reading:
                self._reading = True
                self._source.resume_reading()
            return
        if self._reading:
            self._reading = False
            self._source.pause_reading()
        if self.held < self.bound:
            self._reader = asyncio.get_running_loop().call_later(max(TIMER_GRAIN, wait), self._read_on)

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        if self._reading and self._source is not None and not self._source.is_closing():
            self._source.pause_reading()
        self._reading = False


class End(asyncio.BufferedProtocol):
    """One of the two sockets: reads into the lane that leads away from it, is written to by the one that leads here."""

    def __init__(self, away: Lane, here: Lane, on_open: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self._away = away
        self._here = here
        self._on_open = on_open
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait: a lane starts when both ends are there."""
        self.transport = cast(asyncio.Transport, transport)
        # A moment later, since uvloop begins to read after this call whatever is asked for in it.
        asyncio.get_running_loop().call_soon(self._hold)

    def _hold(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._on_open()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for as much as may be read now."""
        return self._away.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._away.received(nbytes)

    def eof_received(self) -> bool:
        """The peer sends no more, but may still receive."""
        self._away.end(Mark.END)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: the other side learns of it one way later."""
        self._away.end(Mark.RESET)
        self._here.close()
        self._on_lost()

    def pause_writing(self) -> None:
        """The peer doesn't read."""
        self._here.block(True)

    def resume_writing(self) -> None:
        """It does again."""
        self._here.block(False)

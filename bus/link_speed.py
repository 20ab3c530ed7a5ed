"""What the line between here and the server carries in either direction, by real transfers, with nobody else's help.

Upwards: chunks on a subject that nobody hears; a PING on each connection after them is answered once the server has read
all. Downwards: chunks that the server hands out in several copies to connections of this process, so that the way down
carries eight times what goes up for it, and is what is measured unless it is more than eight times as fast.

Sizes double from 64 KiB until one takes long enough to be measured well; that size is repeated.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from bus.credentials import Secret
from bus.tensor_lane import Lane
from schemas.ids import token as valid

SMALLEST = 64 * 1024  # bytes: more than a first flight of ten segments on some connections
LARGEST = 8 * 1024 * 1024  # bytes: the upload of a model of eight million parameters in int8
LONG_ENOUGH = 0.4  # seconds: eight times the round trip of a link that is still good
REPEATS = 3  # of the last size: a median, and a spread
COPIES = 8  # of what goes up for the way down
CHUNK = SMALLEST // COPIES  # bytes of a message: the smallest transfer down is one chunk and its copies
FOREVER = 86_400.0  # seconds: whoever measures has a limit of its own
ANSWER = 10.0  # seconds for connections and subscriptions to be there


class Moved(msgspec.Struct, frozen=True):
    """A timed transfer."""

    bytes: int
    seconds: float


class LinkSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """What was carried. Either direction is empty where not even the smallest size passed in time."""

    up: tuple[Moved, ...]
    down: tuple[Moved, ...]


async def measure_link(url: str, *, node: str, token: Secret = None, streams: int = 1, seconds: float = 20.0) -> LinkSpeed:
    """Time transfers up to the server and down from it.

    Args:
        url: of the server, or of the emulated link to it.
        node: in whose name.
        token: what the server asks for.
        streams: connections that a transfer uses.
        seconds: for each direction; what has passed by then counts.

    Raises:
        Unreachable: there is no server.
    """
    senders = [Lane(url, f"{node} speed {number}", token) for number in range(streams)]
    takers = [Lane(url, f"{node} speed down {number}", token) for number in range(streams)]
    subject = f"tensor.speed.{valid(node)}"
    try:
        await asyncio.gather(*(lane.open() for lane in (*senders, *takers)))
        up = await _doubling(lambda size: _upwards(senders, f"{subject}.up", size), seconds)
        hearing = _Hearing(takers, f"{subject}.down")
        await asyncio.gather(*(lane.barrier(ANSWER) for lane in takers))
        down = await _doubling(lambda size: _downwards(senders, hearing, size), seconds)
    finally:
        await asyncio.gather(*(lane.close() for lane in (*senders, *takers)))
    return LinkSpeed(up=up, down=down)


async def _doubling(transfer: Callable[[int], Awaitable[Moved]], seconds: float) -> tuple[Moved, ...]:
    """Transfers of growing size, the last one `REPEATS` times, until the time is over."""
    done: list[Moved] = []
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            size = SMALLEST
            while True:
                done.append(await transfer(size))
                if done[-1].seconds >= LONG_ENOUGH or size >= LARGEST:
                    break
                size *= 2
            for _ in range(REPEATS - 1):
                done.append(await transfer(size))
    return tuple(done)


async def _upwards(lanes: Sequence[Lane], subject: str, size: int) -> Moved:
    begun = time.monotonic()
    await _send(lanes, subject, size)
    await asyncio.gather(*(_reached(lane) for lane in lanes))
    return Moved(size, time.monotonic() - begun)


async def _reached(lane: Lane) -> None:
    if not await lane.barrier(FOREVER):
        raise ConnectionResetError("the connection was lost")


async def _send(lanes: Sequence[Lane], subject: str, size: int) -> None:
    """`size` bytes in chunks, spread over the lanes; each takes the next when the socket can."""
    left = [CHUNK] * (size // CHUNK)

    async def work(lane: Lane) -> None:
        while left:
            await lane.publish(subject, (bytes(left.pop()),))

    await asyncio.gather(*(work(lane) for lane in lanes))


async def _downwards(senders: Sequence[Lane], hearing: "_Hearing", size: int) -> Moved:
    """`size` bytes come down; an eighth of them goes up for it."""
    hearing.expect(size)
    sending = asyncio.ensure_future(_send(senders, hearing.subject, size // COPIES))
    try:
        return await hearing.all_here()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


class _Hearing:
    """Counts what comes down: `COPIES` groups of subscribers, so that each message comes so often, over any connection."""

    def __init__(self, lanes: Sequence[Lane], subject: str) -> None:
        self.subject = subject
        self._wanted = self._heard = 0
        self._begun = 0.0
        self._done: asyncio.Future[Moved] | None = None
        for copy in range(COPIES):
            for lane in lanes:
                lane.subscribe(subject, f"copy{copy}", self._hear)

    def expect(self, size: int) -> None:
        """Count anew, up to so many bytes."""
        self._wanted, self._heard, self._begun = size, 0, time.monotonic()
        self._done = asyncio.get_running_loop().create_future()

    async def all_here(self) -> Moved:
        """When the last byte is here."""
        assert self._done is not None
        return await self._done

    def _hear(self, *message: object) -> None:
        self._heard += CHUNK
        if self._heard >= self._wanted and self._done is not None and not self._done.done():
            self._done.set_result(Moved(self._wanted, time.monotonic() - self._begun))

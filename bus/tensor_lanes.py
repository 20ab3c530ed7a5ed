"""The connections that tensors travel on: lanes for chunks, and one for words about them, which never queue behind."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.nats_link import Link, OnState
from bus.port import Unreachable
from bus.tensor_frames import CHUNK

Callback = Callable[[Msg], Awaitable[None]]

_BARRIER_TIMEOUT = 10.0  # seconds for a word to the server and back over a bad link
_LOST_PAUSE = 0.01  # seconds from the loss of a connection until the link knows
_LANE_RETRY = 60.0  # seconds that a chunk waits for its lane to come back


class Listening:
    """A pattern that all lanes listen to, each message coming over one of them."""

    def __init__(self, pattern: str, group: str, callback: Callback) -> None:
        self.pattern = pattern
        self._group = group
        self._callback = callback
        self._subscriptions: dict[Link, Subscription] = {}

    async def add(self, lane: Link) -> None:
        """Listen on one more lane. Those of one receiver are a queue group: the server gives each chunk to one of them."""
        self._subscriptions[lane] = await lane.nc.subscribe(self.pattern, queue=self._group, cb=self._callback)

    async def remove(self, lane: Link) -> None:
        """Listen on a lane no more."""
        subscription = self._subscriptions.pop(lane, None)
        if subscription is not None:
            with contextlib.suppress(errors.Error):
                await subscription.unsubscribe()

    async def stop(self) -> None:
        """Listen no more."""
        for lane in tuple(self._subscriptions):
            await self.remove(lane)


class Lanes:
    """One control connection and as many lanes as asked for.

    Attributes:
        control: for requests, acknowledgements and news.
        lanes: for chunks.
        on_back: called after any of them was lost and is back: what was under way may be gone.
    """

    def __init__(self, url: str, name: str, token: str | None, on_state: OnState | None) -> None:
        self._url = url
        self._name = name
        self._token = token
        self._on_state = on_state
        self.control = Link(url, f"{name} tensors", token, on_state)
        self.lanes: list[Link] = []
        self.on_back: list[Callable[[], None]] = []
        self._listening: list[Listening] = []
        self._changing = asyncio.Lock()

    async def open(self, streams: int) -> None:
        """Connect. Raises `Unreachable`."""
        await self.control.open()
        self.control.on_back.append(self._back)
        try:
            await self.set_streams(streams)
        except BaseException:
            await self.close()
            raise

    async def set_streams(self, streams: int) -> None:
        """Have so many lanes. Raises `Unreachable` where a new one can't be made; those there are stay."""
        async with self._changing:
            while len(self.lanes) < max(1, streams):
                await self._add()
            while len(self.lanes) > max(1, streams):
                lane = self.lanes.pop()
                for listening in self._listening:
                    await listening.remove(lane)
                await self.control.round_trip(_BARRIER_TIMEOUT, by=lane)
                await lane.close()

    async def _add(self) -> None:
        lane = Link(self._url, f"{self._name} lane {len(self.lanes) + 1}", self._token, self._on_state)
        # A node that follows its own kind has no use for its own chunks. The small buffer makes a publish wait for the
        # socket, so that lanes take chunks as fast as each can carry them.
        await lane.open(no_echo=True, pending_size=CHUNK // 2)
        lane.on_back.append(self._back)
        for listening in self._listening:
            await listening.add(lane)
        self.lanes.append(lane)

    async def start(self, listening: Listening) -> None:
        """Hear a pattern on all lanes, those to come included; the server knows of it on return."""
        async with self._changing:
            self._listening.append(listening)
            for lane in self.lanes:
                await listening.add(lane)
            for lane in self.lanes:
                await self.control.round_trip(_BARRIER_TIMEOUT, by=lane)

    async def stop(self, listening: Listening) -> None:
        """Hear it no more."""
        with contextlib.suppress(ValueError):
            self._listening.remove(listening)
        await listening.stop()
        for lane in tuple(self.lanes):
            await self.control.round_trip(_BARRIER_TIMEOUT, by=lane)

    async def send(
        self, indexes: Iterator[int], send: Callable[[Link, int], Awaitable[bool]], end: str, nobody: str = ""
    ) -> int:
        """Share `indexes` among the lanes, each taking the next when it has sent one; then say `end` on each.

        `send` returns whether to go on. `nobody`: where the server says that nobody heard the end. Returns the number of
        lanes used.
        """
        lanes = tuple(self.lanes)

        async def work(lane: Link) -> None:
            for index in indexes:
                if not await self._patiently(lane, lambda index=index: send(lane, index)):  # type: ignore[misc]
                    return

        await asyncio.gather(*(work(lane) for lane in lanes))
        await self.end(end, nobody)
        return len(lanes)

    async def end(self, end: str, nobody: str = "") -> None:
        """Say on each lane that nothing more comes."""
        lanes = tuple(self.lanes)
        for lane in lanes:
            with contextlib.suppress(errors.Error):
                await lane.nc.publish(end, b"%d" % len(lanes), nobody)

    async def _patiently(self, lane: Link, send: Callable[[], Awaitable[bool]]) -> bool:
        """Send over a lane, again if it was lost; False to stop."""
        while True:
            try:
                await lane.wait_up(_LANE_RETRY)
                return await send()
            except errors.OutboundBufferLimitError:
                await asyncio.sleep(_LOST_PAUSE)
            except (errors.ConnectionClosedError, errors.ConnectionDrainingError, Unreachable):
                return False

    def _back(self) -> None:
        for listener in self.on_back:
            listener()

    async def close(self) -> None:
        """Close all connections; what was sent is sent."""
        for lane in self.lanes:
            await lane.close()
        await self.control.close()

"""The connections that tensors travel on: lanes for chunks, and one for words about them, which never queue behind."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from bus.nats_link import Link, OnState
from bus.port import Unreachable
from bus.tensor_lane import Lane
from bus.tensor_wire import Heard

_BARRIER_TIMEOUT = 10.0  # seconds for a word to the server and back over a bad link
_LANE_RETRY = 60.0  # seconds that a chunk waits for its lane to come back


class Listening:
    """A pattern that all lanes listen to, each message coming over one of them."""

    def __init__(self, pattern: str, group: str, heard: Heard) -> None:
        self._pattern = pattern
        self._group = group
        self._heard = heard
        self._subscriptions: dict[Lane, int] = {}

    def add(self, lane: Lane) -> None:
        """Listen on one more lane. Those of one receiver are a queue group: the server gives each chunk to one of them."""
        self._subscriptions[lane] = lane.subscribe(self._pattern, self._group, self._heard)

    def remove(self, lane: Lane) -> None:
        """Listen on a lane no more."""
        sid = self._subscriptions.pop(lane, None)
        if sid is not None:
            lane.unsubscribe(sid)


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
        self.control = Link(url, f"{name} tensors", token, on_state)
        self.lanes: list[Lane] = []
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
                lane = Lane(self._url, f"{self._name} lane {len(self.lanes) + 1}", self._token)
                await lane.open()
                lane.on_back.append(self._back)
                for listening in self._listening:
                    listening.add(lane)
                self.lanes.append(lane)
                await lane.barrier(_BARRIER_TIMEOUT)
            while len(self.lanes) > max(1, streams):
                lane = self.lanes.pop()
                for listening in self._listening:
                    listening.remove(lane)
                await lane.close()

    async def start(self, listening: Listening) -> None:
        """Hear a pattern on all lanes, those to come included; the server knows of it on return."""
        self._listening.append(listening)
        for lane in self.lanes:
            listening.add(lane)
        await self._barrier()

    async def stop(self, listening: Listening) -> None:
        """Hear it no more; the server knows of it on return."""
        with contextlib.suppress(ValueError):
            self._listening.remove(listening)
        for lane in self.lanes:
            listening.remove(lane)
        await self._barrier()

    async def _barrier(self) -> None:
        await asyncio.gather(*(lane.barrier(_BARRIER_TIMEOUT) for lane in self.lanes))

    async def send(
        self, indexes: Iterator[int], send: Callable[[Lane, int], Awaitable[bool]], end: str, nobody: str = ""
    ) -> int:
        """Share `indexes` among the lanes, each taking the next when it has sent one; then say `end` on each.

        `send` returns whether to go on. `nobody`: where the server says that nobody heard the end. Returns the number of
        lanes used.
        """
        lanes = tuple(self.lanes)

        async def work(lane: Lane) -> None:
            for index in indexes:
                if not await self._patiently(lane, index, send):
                    return

        await asyncio.gather(*(work(lane) for lane in lanes))
        await self.end(end, nobody)
        return len(lanes)

    async def end(self, end: str, nobody: str = "") -> None:
        """Say on each lane that nothing more comes."""
        lanes = tuple(self.lanes)
        for lane in lanes:
            with contextlib.suppress(ConnectionError):
                await lane.publish(end, (b"%d" % len(lanes),), nobody)

    async def _patiently(self, lane: Lane, index: int, send: Callable[[Lane, int], Awaitable[bool]]) -> bool:
        """Send over a lane, again if it was lost; False to stop."""
        while True:
            try:
                await lane.wait_up(_LANE_RETRY)
                return await send(lane, index)
            except ConnectionError:
                continue  # the lane knows by now that it isn't up
            except Unreachable:
                return False

    def _back(self) -> None:
        for listener in self.on_back:
            listener()

    async def close(self) -> None:
        """Close all connections; what was sent is sent."""
        await asyncio.gather(*(lane.close() for lane in self.lanes), self.control.close())

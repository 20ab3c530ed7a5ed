"""The connections that tensors travel on: lanes for chunks, and one for words about them, which never queue behind."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from bus.credentials import Secret
from bus.nats_link import Link, OnState
from bus.port import Unreachable
from bus.tensor_frames import SLOTS
from bus.tensor_lane import WRITE_AHEAD, Lane
from bus.tensor_wire import Heard

_BARRIER_TIMEOUT = 10.0  # seconds for a word to the server and back over a bad link
_WITH_BBR = 8  # lanes at most that have BBR: the first flights of 32 are more than a poor link's queue holds
_LANE_RETRY = 60.0  # seconds that a chunk waits for its lane to come back
_DRAIN_PATIENCE = 5.0  # seconds for a connection that is replaced to bring what the server has queued for it
log = logging.getLogger("shoal.bus")


class Listening:
    """A pattern that all lanes listen to.

    Where it has a word `#`, that stands for the slots, which the lanes share: each message comes over one of them. Else it
    comes over all.
    """

    def __init__(self, pattern: str, heard: Heard) -> None:
        self._pattern = pattern
        self._heard = heard
        self._subscriptions: dict[tuple[Lane, str], int] = {}

    def deal(self, lanes: Sequence[Lane]) -> None:
        """Have these lanes hear all of it. What others, or each of them, heard before, they go on hearing until `tidy`."""
        for lane, pattern in self._wanted(lanes) - self._subscriptions.keys():
            self._subscriptions[lane, pattern] = lane.subscribe(pattern, "", self._heard)

    def tidy(self, lanes: Sequence[Lane]) -> None:
        """No lane hears more than is dealt to it."""
        for lane, pattern in self._subscriptions.keys() - self._wanted(lanes):
            lane.unsubscribe(self._subscriptions.pop((lane, pattern)))

    def _wanted(self, lanes: Sequence[Lane]) -> set[tuple[Lane, str]]:
        if "#" not in self._pattern or len(lanes) < 2:
            return {(lane, self._pattern.replace("#", "*")) for lane in lanes}
        return {(lanes[slot % len(lanes)], self._pattern.replace("#", str(slot))) for slot in range(SLOTS)}


class Lanes:
    """One control connection and as many lanes as asked for.

    Attributes:
        control: for requests, acknowledgements and news.
        lanes: for chunks.
        on_back: called after any of them was lost and is back: what was under way may be gone.
    """

    def __init__(self, url: str, name: str, token: Secret, on_state: OnState | None) -> None:
        self._url = url
        self._name = name
        self._token = token
        self.control = Link(url, f"{name} tensors", token, on_state)
        self.lanes: list[Lane] = []
        self.on_back: list[Callable[[], None]] = []
        self._listening: list[Listening] = []
        self._changing = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None

    async def open(self, streams: int) -> None:
        """Connect. Raises `Unreachable`."""
        await self.control.open()
        self.control.on_back.append(self._back)
        try:
            await self.set_streams(1)
            await self.set_streams(streams)
        except BaseException:
            await self.close()
            raise

    async def set_streams(self, streams: int) -> None:
        """Have so many lanes, up to `SLOTS`, or where they have BBR up to what is of use then.

        Raises:
            Unreachable: a new one can't be made; those there are stay.
        """
        async with self._changing:
            throttled = not any(lane.bbr for lane in self.lanes)
            wanted = min(SLOTS if throttled else _WITH_BBR, max(1, streams))
            if wanted == len(self.lanes):
                return
            added = [self._lane(number) for number in range(len(self.lanes), wanted)]
            try:
                await _all(lane.open() for lane in added)
            except BaseException:
                await _all(lane.close() for lane in added)
                raise
            left = self.lanes[wanted:]
            self.lanes = [*self.lanes[:wanted], *added]
            for lane in self.lanes:
                lane.write_ahead(WRITE_AHEAD // len(self.lanes))
            for listening in self._listening:
                listening.deal(self.lanes)
            try:
                await self._barrier()
            finally:  # also if nobody waits for it any more: nothing else closes what is in no list
                for listening in self._listening:
                    listening.tidy(self.lanes)
                await _all(lane.close() for lane in left)

    def renew_soon(self, number: int) -> None:
        """Put another connection in the place of one that is far behind the others, unless one is being made already."""
        if self._renewing is None and number < len(self.lanes):
            self._renewing = asyncio.get_running_loop().create_task(self._renew(self.lanes[number]))
            self._renewing.add_done_callback(self._renewed)

    async def _renew(self, old: Lane) -> None:
        async with self._changing:
            if old not in self.lanes:
                return
            number = self.lanes.index(old)
            new = self._lane(number)
            try:
                await new.open()
            except BaseException:
                await new.close()
                raise
            new.write_ahead(WRITE_AHEAD // len(self.lanes))
            self.lanes = [*self.lanes[:number], new, *self.lanes[number + 1 :]]
            for listening in self._listening:
                listening.deal(self.lanes)
        log.info("%s: put in the place of one that was far behind", new.name)
        try:
            await new.barrier(_BARRIER_TIMEOUT)
            old.drain()
            whole = await old.barrier(_DRAIN_PATIENCE)
        finally:
            for listening in self._listening:
                listening.tidy(self.lanes)
            await old.close()
        if not whole:
            self._back()

    def _renewed(self, task: "asyncio.Task[None]") -> None:
        self._renewing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("a connection that is far behind stays: %s", error)

    def _lane(self, number: int) -> Lane:
        lane = Lane(self._url, f"{self._name} lane {number + 1}", self._token)
        lane.on_back.append(self._back)
        return lane

    async def start(self, listening: Listening) -> None:
        """Hear a pattern on all lanes, those to come included; the server knows of it on return."""
        self._listening.append(listening)
        listening.deal(self.lanes)
        await self._barrier()

    async def stop(self, listening: Listening) -> None:
        """Hear it no more; the server knows of it on return."""
        with contextlib.suppress(ValueError):
            self._listening.remove(listening)
        listening.tidy(())
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
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in self.lanes), self.control.close())


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Do them all at once, to the end; raises what one of them raised."""
    for failure in await asyncio.gather(*works, return_exceptions=True):
        if failure is not None:
            raise failure

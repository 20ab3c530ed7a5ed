"""What a fleet says while it is drilled, each with the moment at which it was heard here.

All times are of this process's own clock: a drill may put others' clocks wrong.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, NamedTuple, TypeVar

from bus.port import Interest, Receipt, Start
from runners.client import Client
from schemas.bus import BusDisturbed
from schemas.decisions import AgentStarted, InputFailed, NodeJoined, NodeLost
from schemas.emulation import EmulatedLinkChanged
from schemas.errors import ShoalError
from schemas.health import NodeHealth
from schemas.jobs import JobState, ModelStored
from schemas.nodes import NodeHeartbeat, WorkFailed
from schemas.training import Assignment, RoundClosed, RoundOpened
from schemas.wire import Message

M = TypeVar("M", bound=Message)

KINDS = (
    AgentStarted,
    Assignment,
    BusDisturbed,
    EmulatedLinkChanged,
    InputFailed,
    JobState,
    ModelStored,
    NodeHealth,
    NodeHeartbeat,
    NodeJoined,
    NodeLost,
    RoundClosed,
    RoundOpened,
    WorkFailed,
)
_MOST = 50_000  # messages kept: minutes of a busy fleet, some 50 MB


class NotHeard(ShoalError):
    """Something expected was not said in time. Attributes: `what`, `seconds`."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what}: not within {seconds:.0f} s")
        self.what = what
        self.seconds = seconds


class Heard(NamedTuple, Generic[M]):
    """A message."""

    at: float
    """When it came (`time.monotonic`)."""
    message: M


class Watch:
    """What was heard, and waiting for more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: deque[Heard[Message]] = deque(maxlen=_MOST)
        self._more = asyncio.Event()

    def take(self, message: Message, receipt: Receipt | None) -> None:
        """The subscription's handler."""
        if receipt is not None:
            receipt.ack()
        self._heard.append(Heard(self._clock(), message))
        self._more.set()

    def of(self, kind: type[M], since: float = 0.0, where: Callable[[M], bool] = lambda _: True) -> list[Heard[M]]:
        """Messages of a kind heard from a moment on, each once."""
        found: dict[str, Heard[M]] = {}
        for heard in reversed(self._heard):
            if heard.at < since:
                break
            if isinstance(heard.message, kind) and where(heard.message):
                found[heard.message.id or str(len(found))] = Heard(heard.at, heard.message)
        return list(found.values())[::-1]

    def everything(self, since: float) -> list[Heard[Message]]:
        """All that was heard from a moment on."""
        return [heard for heard in self._heard if heard.at >= since]

    async def first(self, kind: type[M], since: float, where: Callable[[M], bool], *, what: str, within: float) -> Heard[M]:
        """The first message of a kind from a moment on that satisfies a condition. Raises `NotHeard`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    self._more.clear()
                    found = self.of(kind, since, where)
                    if found:
                        return found[0]
                    if self._heard:  # what was looked through once isn't again with every message
                        since = max(since, self._heard[-1].at)
                    await self._more.wait()
        raise NotHeard(what, within)

    async def rounds(self, job: str, count: int, since: float, within: float) -> list[Heard[RoundClosed]]:
        """The rounds that a job closed from a moment on, once there are so many. Raises `NotHeard`."""
        what = f"{count} rounds closed"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    self._more.clear()
                    found = self.of(RoundClosed, since, lambda m: m.job == job)
                    if len({heard.message.round for heard in found}) >= count:
                        return found
                    await self._more.wait()
        raise NotHeard(what, within)

    async def contributes(self, job: str, node: str, since: float, within: float) -> float:
        """When a round was closed that counts a node's work of a round opened after a moment. Raises `NotHeard`."""
        began = self._clock()
        opened = await self.first(RoundOpened, since, lambda m: m.job == job, what="another round is opened", within=within)

        def counts(closed: RoundClosed) -> bool:
            mine = (part for part in closed.contributions if part.node == node)
            return closed.job == job and any(part.round >= opened.message.round for part in mine)

        left = max(0.0, within - (self._clock() - began))
        closed = await self.first(RoundClosed, opened.at, counts, what=f"{node}'s work is counted again", within=left)
        return closed.at


@contextlib.asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Watch]:
    """Listen to all that a drill goes by; what holds now comes first."""
    watch = Watch()
    subscription = await client.bus.subscribe([Interest(kind) for kind in KINDS], watch.take, start=Start.NEW)
    try:
        yield watch
    finally:
        await subscription.stop()

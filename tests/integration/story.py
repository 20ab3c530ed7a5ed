"""What is said on the bus, as it comes: tests wait for events, not for time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from process_fleet import PATIENCE

from bus.port import Receipt, Start
from runners.client import Client, interests_of
from schemas.jobs import JobState
from schemas.training import RoundClosed
from schemas.wire import Message

M = TypeVar("M", bound=Message)
HUM = ("AgentUsage", "LinkProbed", "NodeHeartbeat", "TrainingProgress")  # said all the time, whatever goes wrong
LAST = 10_000  # characters of what was said before a test failed


class Story:
    """All messages that match, in the order in which they came."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._more = asyncio.Event()

    def take(self, message: Message, receipt: Receipt | None) -> None:
        """The subscription's handler."""
        if receipt is not None:
            receipt.ack()
        self.messages.append(message)
        self._more.set()

    @property
    def mark(self) -> int:
        """Here and now: to wait for something that comes after."""
        return len(self.messages)

    def of(self, kind: type[M], where: Callable[[M], bool] = lambda _: True, since: int = 0) -> list[M]:
        """The messages of a type."""
        return [m for m in self.messages[since:] if isinstance(m, kind) and where(m)]

    async def heard(
        self, kind: type[M], where: Callable[[M], bool] = lambda _: True, *, since: int = 0, timeout: float = PATIENCE
    ) -> M:
        """The first message of a type that satisfies a condition, now or as soon as it comes."""
        seen = since
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._more.clear()
                    for message in self.messages[seen:]:
                        if isinstance(message, kind) and where(message):
                            return message
                    seen = len(self.messages)
                    await self._more.wait()
        except TimeoutError:
            last = "\n".join(str(message) for message in self.messages if type(message).__name__ not in HUM)[-LAST:]
            raise AssertionError(f"no {kind.__name__} as expected within {timeout} s; last:\n{last}") from None

    async def rounds(self, job: str, more: int, since: int) -> RoundClosed:
        """So many more rounds of a job are closed."""
        first = await self.heard(RoundClosed, lambda m: m.job == job, since=since)
        return await self.heard(RoundClosed, lambda m: m.job == job and m.round >= first.round + more - 1, since=since)

    async def ended(self, job: str) -> JobState:
        """A job's last state."""
        return await self.heard(JobState, lambda m: m.job == job and m.state.ended)


@asynccontextmanager
async def following(client: Client, subject: str = "shoal.>", *, past: bool = True) -> AsyncIterator[Story]:
    """Everything on matching subjects: what is stored (`past`; else only the present state), then what comes."""
    story = Story()
    start = Start.ALL if past else Start.NEW
    subscription = await client.bus.subscribe(interests_of(subject), story.take, start=start)
    try:
        yield story
    finally:
        await subscription.stop()


async def told(client: Client, subject: str) -> list[Any]:
    """What is stored on matching subjects."""
    return [message async for message in client.history(subject)]

"""Records that a drill stores all the while: whatever was acknowledged must be there afterwards."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from bus.port import BusError, Interest
from runners.client import ALPHABET, Client
from schemas.drills import DrillMark

EVERY = 0.25  # seconds between two: enough that some are under way at every kill, nothing to the server
_UNDER_WAY = 64  # that wait for their acknowledgement while the server is away; then no new ones are begun


class Marks:
    """Stores marks, and remembers which the server has acknowledged."""

    def __init__(self, client: Client) -> None:
        self.drill = "drill-" + "".join(secrets.choice(ALPHABET) for _ in range(6))
        self.accepted: set[int] = set()
        self.refused = 0
        self._client = client
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def say(self, part: str, reason: str) -> None:
        """Tell everybody what is done on purpose; it is no matter if nobody can hear it now."""
        await self._store(part, reason)

    @contextlib.asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Store marks until the end of the block, and wait for what is under way then."""
        beating = asyncio.ensure_future(self._beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Returns when each mark begun so far is acknowledged or refused."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def stored(self) -> list[int]:
        """The numbers of those that the server has, in its order. Raises `Unreachable`."""
        mine = Interest(DrillMark, {"drill": self.drill})
        return [mark.number async for mark in self._client.bus.history([mine]) if isinstance(mark, DrillMark)]

    async def _beat(self) -> None:
        while True:
            if len(self._tasks) < _UNDER_WAY:
                task = asyncio.ensure_future(self._store())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(EVERY)

    async def _store(self, part: str = "", reason: str = "") -> None:
        self._number += 1
        number = self._number
        try:
            await self._client.publish(DrillMark(drill=self.drill, number=number, part=part, reason=reason))
            self.accepted.add(number)
        except BusError:
            self.refused += 1

"""The simulated carrier, on the event loop's own time."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self

from carriers import Collector

from bus.port import Bus
from bus.simulated import SimulatedBus, SimulatedServer

_PATIENCE = 20.0  # seconds: far more than anything here takes on a busy machine
_ROUNDS = 3  # messages to the server and back: into a stream, out of it, and what they lead to


class SimulatedCarrier:
    """See `carriers.Carrier`."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.server = SimulatedServer(seed=1, ack_wait=0.1, resend=0.05, store_timeout=1.0)
        self.participants: list[SimulatedBus] = []
        self._foreign = self.server.connect("foreign")

    async def open(self, source: str) -> Bus:
        self.participants.append(self.server.connect(source))
        return self.participants[-1]

    async def inject(self, subject: str, data: bytes) -> None:
        self._foreign.inject(subject, data)

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def settle(self) -> None:
        for _ in range(_ROUNDS):
            for bus in self.participants:
                if not bus.closed:
                    assert await bus.round_trip(_PATIENCE) is not None

    async def kill_server(self) -> None:
        self.server.stop()
        self.server.start()

    async def stop_server(self) -> None:
        self.server.stop()

    async def start_server(self) -> None:
        self.server.start()

    async def __aenter__(self) -> Self:
        Collector.watchers.add(self._changed.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        for bus in self.participants:
            await bus.close()
        Collector.watchers.discard(self._changed.set)


def carrier(tmp_path: Path) -> SimulatedCarrier:
    """Nothing of it is on disk."""
    return SimulatedCarrier()

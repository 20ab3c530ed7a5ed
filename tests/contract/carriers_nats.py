"""The NATS carrier: a real nats-server on a store of the test's own."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Self

import nats
from carriers import Collector
from nats.aio.client import Client

from bus.nats import NatsBus
from bus.port import Bus
from bus.server import EmbeddedServer

_PATIENCE = 20.0  # seconds: far more than anything here takes on a busy machine
_ROUNDS = 3  # messages to the server and back: into a stream, out of it, and what they lead to


class NatsCarrier:
    """See `carriers.Carrier`."""

    def __init__(self, store: Path) -> None:
        self._changed = asyncio.Event()
        self._back = asyncio.Event()
        self.server = EmbeddedServer(store, on_restart=lambda _: self._back.set())
        self.participants: list[NatsBus] = []
        self._foreign: Client | None = None

    async def open(self, source: str) -> Bus:
        bus = await NatsBus.connect(self.server.url, source=source, ack_wait=0.3, store_timeout=5.0)
        self.participants.append(bus)
        return bus

    async def inject(self, subject: str, data: bytes) -> None:
        if self._foreign is None:
            self._foreign = await nats.connect(self.server.url, name="foreign")
        await self._foreign.publish(subject, data)
        await self._foreign.flush()  # overtakes what its loop has not written yet
        await self._foreign.flush()

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
        pid = self.server.pid
        assert pid is not None
        self._back.clear()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(_PATIENCE):
            await self._back.wait()

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()

    async def __aenter__(self) -> Self:
        Collector.watchers.add(self._changed.set)
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(bus.close() for bus in self.participants if not bus.closed))
        if self._foreign is not None:
            await self._foreign.close()
        await self.server.stop()
        Collector.watchers.discard(self._changed.set)


def carrier(tmp_path: Path) -> NatsCarrier:
    """A server of its own, gone at the end."""
    return NatsCarrier(tmp_path / "store")

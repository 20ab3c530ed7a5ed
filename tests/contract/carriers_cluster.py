"""The NATS carrier on a cluster of three real servers, one of which is killed where the others lose their only one."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import nats
from carriers import Collector
from nats.aio.client import Client

from bus.cluster import EmbeddedCluster
from bus.nats import NatsBus
from bus.port import Bus, Handler, Interest, Responder, Start, Subscription

_PATIENCE = 60.0  # seconds: servers of a cluster take some to choose another leader, and more on a busy machine


class Participant(NatsBus):
    """What it listens to is known at all servers when it says so: telemetry is lost that comes before."""

    carrier: "ClusterCarrier"

    async def subscribe(
        self, interests: Sequence[Interest], handler: Handler, *, durable: str | None = None, start: Start = Start.NEW
    ) -> Subscription:
        made = await super().subscribe(interests, handler, durable=durable, start=start)
        await self.carrier.settle()
        return made

    async def serve(self, subject: str, responder: Responder, *, group: str = "servers") -> Subscription:
        made = await super().serve(subject, responder, group=group)
        await self.carrier.settle()
        return made


class ClusterCarrier:
    """See `carriers.Carrier`."""

    def __init__(self, store: Path) -> None:
        self._changed = asyncio.Event()
        self._back = asyncio.Event()
        self.cluster = EmbeddedCluster(store, 3, on_restart=lambda _: self._back.set())
        self.participants: list[NatsBus] = []
        self._witnesses: list[Client] = []
        self._killed = 0

    async def open(self, source: str) -> Bus:
        bus = await Participant.connect(self.cluster.url, source=source, ack_wait=0.3, store_timeout=_PATIENCE)
        bus.carrier = self
        self.participants.append(bus)
        return bus

    async def inject(self, subject: str, data: bytes) -> None:
        (first, *_) = await self._on_each()
        await first.publish(subject, data)
        await first.flush()
        await self.settle()

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def settle(self) -> None:
        """Between two servers messages keep their order: what was sent before has arrived when a witness's word has."""
        witnesses = await self._on_each()
        for _ in range(3):
            for bus in self.participants:
                if not bus.closed:
                    assert await bus.round_trip(_PATIENCE) is not None
            for one in witnesses:
                for other in witnesses:
                    inbox = other.new_inbox()
                    heard = await other.subscribe(inbox)
                    await other.flush()
                    async with asyncio.timeout(_PATIENCE):
                        while not heard.pending_msgs:
                            await one.publish(inbox)
                            await one.flush()
                            await other.flush()

    async def kill_server(self) -> None:
        victim = self.cluster.servers[self._killed % 3]
        self._killed += 1
        assert victim.pid is not None
        self._back.clear()
        os.kill(victim.pid, signal.SIGKILL)
        async with asyncio.timeout(_PATIENCE):
            await self._back.wait()

    async def stop_server(self) -> None:
        await asyncio.gather(*(server.stop() for server in self.cluster.servers))

    async def start_server(self) -> None:
        await asyncio.gather(*(server.start() for server in self.cluster.servers))

    async def _on_each(self) -> list[Client]:
        if not self._witnesses:
            urls = self.cluster.url.split(",")
            self._witnesses = [await nats.connect(url, name="foreign") for url in urls]
        return self._witnesses

    async def __aenter__(self) -> Self:
        Collector.watchers.add(self._changed.set)
        await self.cluster.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(bus.close() for bus in self.participants if not bus.closed))
        for witness in self._witnesses:
            await witness.close()
        await self.cluster.stop()
        Collector.watchers.discard(self._changed.set)


def carrier(tmp_path: Path) -> ClusterCarrier:
    """Servers of its own, gone at the end."""
    return ClusterCarrier(tmp_path / "store")

"""What tests of tensors share: a server with participants on it, and outsiders who watch."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import nats
from nats.aio.client import Client

from bus.server import EmbeddedServer
from bus.tensor_frames import Held, Kept
from bus.tensors import TensorBus, Transfer

PATIENCE = 30.0  # seconds: far more than anything here takes on a busy machine


class Exchange:
    """A server and the participants of a test."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.transfers: dict[str, list[Transfer]] = {}
        self.members: list[TensorBus] = []
        self._clients: list[Client] = []

    async def join(self, node: str, **options: Any) -> TensorBus:
        """A node of job `j`."""
        self.transfers[node] = []
        member = await TensorBus.connect(
            self.server.url, job="j", node=node, on_transfer=self.transfers[node].append, **options
        )
        self.members.append(member)
        return member

    async def outsider(self) -> Client:
        """A plain NATS client."""
        client = await nats.connect(self.server.url)
        self._clients.append(client)
        return client

    async def watch(self, pattern: str) -> "Watch":
        """An outsider that hears a pattern."""
        watch = Watch()
        client = await self.outsider()
        await client.subscribe(pattern, cb=watch.hear)
        await settled(client)
        return watch

    async def close(self) -> None:
        """Everybody goes."""
        for member in self.members:
            await member.close()
        for client in self._clients:
            await client.close()


class Watch:
    """What an outsider heard."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._changed = asyncio.Event()

    async def hear(self, msg: Any) -> None:
        self.heard.append(msg)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds, looked at after each message."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def settled(client: Client) -> None:
    """Returns once the server has taken all that a plain client was told to send.

    One `flush` doesn't say so: its ping is written at once and overtakes what waits for the client's next turn of the loop.
    """
    await client.flush()
    await client.flush()


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Data in which no chunk equals another."""
    return random.Random(seed).randbytes(size)


def frame_of(kept: Kept, index: int) -> bytes:
    """A chunk's whole message."""
    return b"".join(kept.frame(index))


async def fetched(member: TensorBus, holder: str, held: Held, timeout: float = PATIENCE) -> memoryview:
    """The held tensor."""
    return await member.fetch(holder, held.kind, held.name, held.size, held.digest, timeout)

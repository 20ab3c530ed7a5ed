"""Fetches end when their time is over or their caller gives up, whatever else happens in that moment."""

import asyncio
import hashlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.msg import Msg
from tensor_exchange import PATIENCE, Exchange, settled, some_bytes

from bus.nats_link import LinkState
from bus.server import EmbeddedServer
from bus.tensor_assembly import Incoming
from bus.tensor_frames import CHUNK, Kept, content_of, header_of

ONE_QUESTION = 0.5  # seconds in which a question is put and comes back unheard


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    """A server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as server:
        made = Exchange(server)
        yield made
        await made.close()


async def test_who_gives_up_in_the_moment_of_an_answer_is_let_go(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await exchange.join("b", stall=3600.0)
    link = b._lanes.control
    promise = Msg(link.nc, data=msgspec.json.encode({"found": True, "digest": "00" * 32, "size": 1000}))

    async def answer_while_the_caller_gives_up(subject: str, payload: bytes, timeout: float) -> Msg:
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def at_once() -> None:
            answer.set_result(promise)
            fetching.cancel()

        asyncio.get_running_loop().call_soon(at_once)
        return await asyncio.wait_for(answer, timeout)  # as nats-py waits

    monkeypatch.setattr(link.nc, "request", answer_while_the_caller_gives_up)
    fetching = asyncio.create_task(b.fetch("a", "delta", "1", 1000, "00" * 32, 3600.0))
    await asyncio.wait({fetching}, timeout=PATIENCE)
    assert fetching.cancelled()


async def test_the_latest_is_asked_for_again_of_a_holder_that_is_not_back_yet(exchange: Exchange) -> None:
    back = asyncio.Event()
    b = await exchange.join("b", on_state=lambda state, _: back.set() if state is LinkState.BACK else None)
    kept = Kept("anchor", "7", some_bytes(1000))
    described = msgspec.json.encode({"found": True, "name": "7", "digest": kept.held.digest, "size": 1000})
    assert exchange.server.pid is not None
    os.kill(exchange.server.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await back.wait()
    holder = await exchange.outsider()

    async def send(msg: Any) -> None:
        ask = msgspec.json.decode(msg.data)
        if ask["op"] == "get":
            await holder.publish(f"tensor.j.a.to.b.{ask['token']}.0.0", b"".join(kept.frame(0)))
        await msg.respond(described)

    async with asyncio.TaskGroup() as together:
        asking = together.create_task(b.fetch_latest("a", "anchor", PATIENCE))
        await asyncio.wait({asking}, timeout=ONE_QUESTION)
        assert not asking.done()
        await holder.subscribe("tensor.j.a.fetch.*", cb=send)
        assert await asking == ("7", some_bytes(1000))


class HeldUp:
    """A hash that waits before it takes bytes."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self._hash = hashlib.sha256()
        self.hexdigest = self._hash.hexdigest

    def update(self, data: memoryview) -> None:
        assert self.go.wait(PATIENCE)
        self._hash.update(data)


async def test_who_gives_up_while_a_tensor_is_checked_spoils_it_for_nobody() -> None:
    kept = Kept("delta", "1", some_bytes(20 * CHUNK))
    incoming, hashing = Incoming(kept.held.size, content_of(kept.held.digest)), HeldUp()
    incoming._hash = hashing  # type: ignore[assignment]
    for index in range(kept.count):
        header, chunk = kept.frame(index)
        read = header_of(memoryview(header))
        assert read is not None
        incoming.take(index, memoryview(chunk), read.check, time.monotonic())
    incoming.hash_ahead()
    first = asyncio.create_task(incoming.whole(kept.held.digest))
    for _ in range(3):
        await asyncio.sleep(0)  # until it waits for the hash
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    second = asyncio.create_task(incoming.whole(kept.held.digest))
    hashing.go.set()
    assert await second == some_bytes(20 * CHUNK)


async def test_what_a_plain_client_was_told_is_with_the_server_when_it_is_settled() -> None:
    """A condition of the other tests here, which ask what such a client serves, from another connection."""
    taken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload": 1000}\r\n')
        async for line in reader:
            taken.append(line.strip())
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = await nats.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await client.subscribe("tensor.j.a.fetch")
        await settled(client)
        answered = len(taken) - 1 - taken[::-1].index(b"PING")
        assert taken.index(b"SUB tensor.j.a.fetch  1") < answered
        await client.close()

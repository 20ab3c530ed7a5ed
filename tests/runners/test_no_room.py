"""A server that can store no more, and a subscriber that reads no more: real ones. Nothing stored is lost, nobody hangs."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import nats
import pytest
from nats.js.api import DiscardPolicy
from toys import Toy

from bus.nats import NatsBus
from bus.nats_streams import RECORD, configs
from bus.port import Interest, NoRoom, Receipt, Start
from bus.server import EmbeddedServer
from runners import interpreter
from runners.host import Host
from runners.load import LATER
from schemas.bus import MessageRejected
from schemas.decisions import AgentStarted, NodeReleased
from schemas.jobs import JobAnswer
from schemas.wire import Message, seal

PATIENCE = 60.0  # seconds: far more than anything here takes on a busy machine
ROOM = 16 * 1024
"""Bytes that the stream of records takes here."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "store") as server:
        yield server


def released(number: int, size: int = 10) -> NodeReleased:
    message = NodeReleased(node="n", reason="x" * size)
    seal(message, id=f"tester:1:{number}", cause="", at=1.0, source="tester")
    return message


async def fill(bus: NatsBus) -> int:
    """Publish until there is no room; gives how many were stored."""
    client = await nats.connect(bus._link._servers[0])
    (config,) = [config for config in configs() if config.name == RECORD]
    await client.jetstream().update_stream(config.evolve(discard=DiscardPolicy.NEW, max_bytes=ROOM))
    await client.close()
    stored = 0
    for size in (1000, 10):
        with suppress(NoRoom):
            while True:
                await bus.publish(released(stored, size))
                stored += 1
    return stored


async def ask(bus: NatsBus) -> JobAnswer:
    body = b'{"kind": "train", "workload": "a:b"}'
    return msgspec.json.decode(await bus.request("shoal.jobs.submit", body, PATIENCE), type=JobAnswer)


async def test_a_full_stream_loses_no_decision_and_turns_requests_away(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "NO_ROOM_RETRY", 0.02)
    bus = await NatsBus.connect(server.url, source="tester")
    stored = await fill(bus)
    with pytest.raises(NoRoom, match="free its disk") as refused:
        await bus.publish(released(stored))
    assert "maximum bytes" in refused.value.why
    theirs = await NatsBus.connect(server.url, source="toy")
    host = Host(Toy(random.Random(1)), theirs, source="toy", durable=False, start=Start.NEW)
    running = asyncio.ensure_future(host.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while not host._interpreter.full or not theirs._subscriptions:
                await bus.round_trip(1.0)
            answer = await ask(bus)
            assert not answer.accepted
            assert answer.retry_after == LATER
            assert answer.reason is not None
            assert "nothing can be stored: maximum bytes" in answer.reason
            await bus.purge("shoal.decisions.>")
            while host._interpreter.full:
                await bus.round_trip(1.0)
            assert (await ask(bus)).accepted
        told = [message async for message in bus.history([Interest(AgentStarted)])]
        assert [message.source for message in told] == ["toy"], "what was decided while there was no room is stored now"
    finally:
        host.stop("end of test")
        await running
        await theirs.close()
        await bus.close()


async def test_a_subscriber_that_reads_nothing_holds_nobody_up(server: EmbeddedServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b'CONNECT {"verbose": false}\r\nSUB shoal.> 1\r\n')
    bus = await NatsBus.connect(server.url, source="speaker")
    other = await NatsBus.connect(server.url, source="listener")
    heard, all_here = [0], asyncio.Event()

    def hear(message: Message, receipt: Receipt | None) -> None:
        heard[0] += 1
        if heard[0] == 600:
            all_here.set()

    await other.subscribe([Interest(MessageRejected)], hear)
    async with asyncio.timeout(PATIENCE):
        for number in range(600):  # 18 MB: what sockets hold is some 6 MB at most
            message = MessageRejected(subject="s", field="$", reason="x" * 30_000, size=1, count=number)
            await bus.publish(seal(message, id=str(number), cause="", at=1.0, source="speaker"))
        await all_here.wait()
    assert (bus.dropped, other.dropped) == (0, 0)
    writer.transport.abort()
    await bus.close()
    await other.close()

"""What a bad connection and a meddled-with server do to the NATS carrier: nothing lost, nothing twice, all in order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext

from bus.nats import NatsBus
from bus.nats_objects import BUCKET, STREAM, CorruptObject, ObjectTooLarge
from bus.nats_pull import coordinates
from bus.nats_streams import RECORD, configs
from bus.port import Interest, Receipt, Start
from bus.server import EmbeddedServer
from schemas.nodes import NodeLeaving
from schemas.wire import Message

PATIENCE = 30.0  # seconds: far more than anything here takes on a busy machine


class Relay:
    """A TCP relay that can be cut: what is under way in either direction is lost."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.cuts = 0
        self.cut_after: int | None = None
        """Bytes from the server after which it cuts by itself."""

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """End all connections at once."""
        self.cuts += 1
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        with suppress(OSError):
            await asyncio.gather(self._pipe(reader, back, counted=False), self._pipe(there, writer, counted=True))
        self._writers -= {writer, back}

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        while data := await reader.read(16_384):
            if counted and self.cut_after is not None:
                self.cut_after -= len(data)
                if self.cut_after <= 0:
                    self.cut_after = None
                    self.cut()
                    return
            writer.write(data)
            await writer.drain()
        writer.close()


class Got:
    """A handler that acknowledges, and waits for conditions."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.redelivered: set[str] = set()
        self._changed = asyncio.Event()

    def __call__(self, message: Message, receipt: Receipt | None) -> None:
        assert receipt is not None
        if receipt.redelivered:
            self.redelivered.add(message.id)
        if message.id not in self.ids:
            self.ids.append(message.id)
        receipt.ack()
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds, looked at after each message."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as made:
        yield made


@pytest.fixture
async def js(server: EmbeddedServer) -> AsyncIterator[JetStreamContext]:
    """JetStream as an operator sees it."""
    client = await nats.connect(server.url)
    yield client.jetstream()
    await client.close()


def record(number: int) -> NodeLeaving:
    """A RECORD."""
    return NodeLeaving(id=f"t:1:{number}", node="a", reason="x" * 200)


def numbers(count: int) -> list[str]:
    """Ids of the first records."""
    return [f"t:1:{number}" for number in range(count)]


@pytest.mark.parametrize("durable", [None, "agent"])
async def test_deliveries_lost_with_a_connection_come_again_in_order(server: EmbeddedServer, durable: str | None) -> None:
    speaker = await NatsBus.connect(server.url, source="speaker")
    await asyncio.gather(*(speaker.publish(record(number)) for number in range(1500)))
    async with Relay(server.ports.nats) as relay:
        # Nothing may depend on the server's giving up on what it has delivered: that takes an hour here.
        bus, got = await NatsBus.connect(relay.url, source="agent", ack_wait=3600.0), Got()
        relay.cut_after = 60_000
        await bus.subscribe([Interest(NodeLeaving)], got, durable=durable, start=Start.ALL)
        for part in range(1, 6):
            await got.until(lambda part=part: len(got.ids) >= part * 250)  # type: ignore[misc]
            relay.cut_after = 30_000
        await got.until(lambda: len(got.ids) == 1500)
        assert got.ids == numbers(1500)
        assert relay.cuts >= 3
        await bus.close()
    await speaker.close()


async def test_publishes_whose_acknowledgements_were_lost_are_stored_once(
    server: EmbeddedServer, js: JetStreamContext
) -> None:
    async with Relay(server.ports.nats) as relay:
        bus = await NatsBus.connect(relay.url, source="agent")
        for burst in range(4):
            relay.cut_after = 2_000
            await asyncio.gather(*(bus.publish(record(burst * 200 + number)) for number in range(200)))
        assert relay.cuts >= 3
        stored = [message.id async for message in bus.history([Interest(NodeLeaving)])]
        assert sorted(stored) == sorted(numbers(800))
        await bus.close()


async def test_history_goes_on_where_it_was_cut(server: EmbeddedServer) -> None:
    async with Relay(server.ports.nats) as relay:
        bus = await NatsBus.connect(relay.url, source="agent")
        await asyncio.gather(*(bus.publish(record(number)) for number in range(1200)))
        relay.cut_after = 100_000
        assert [message.id async for message in bus.history([Interest(NodeLeaving)])] == numbers(1200)
        assert relay.cuts >= 1
        await bus.close()


@pytest.mark.parametrize("durable", [None, "agent"])
async def test_a_consumer_that_somebody_removed_is_made_again(
    server: EmbeddedServer, js: JetStreamContext, durable: str | None
) -> None:
    bus, got = await NatsBus.connect(server.url, source="agent"), Got()
    await bus.subscribe([Interest(NodeLeaving)], got, durable=durable)
    number = 0
    for _ in range(3):
        for _ in range(10):
            await bus.publish(record(number))
            number += 1
        for consumer in await js.consumers_info(RECORD):
            await js.delete_consumer(RECORD, consumer.name)
        await bus.publish(record(number))
        number += 1
        await got.until(lambda number=number: len(got.ids) == number)  # type: ignore[misc]
    assert got.ids == numbers(number)
    await bus.close()


async def test_a_first_publish_done_again_is_known_after_the_servers_own_window(
    server: EmbeddedServer, js: JetStreamContext
) -> None:
    bus = await NatsBus.connect(server.url, source="agent")
    await js.update_stream(configs()[0].evolve(duplicate_window=0.1))
    await bus.publish(record(0), dedup="the effect", first=True)
    stored = 1
    async with asyncio.timeout(PATIENCE):
        # Once the server takes this a second time it has forgotten all earlier ids.
        while stored < 3:
            await bus.publish(NodeLeaving(id="", node="clock", reason=""), dedup="probe")
            stored = (await js.stream_info(RECORD)).state.messages
    await bus.publish(record(0), dedup="the effect", first=True)
    assert (await js.stream_info(RECORD)).state.messages == stored
    await bus.close()


async def test_an_ephemeral_subscription_leaves_nothing_behind(server: EmbeddedServer, js: JetStreamContext) -> None:
    bus = await NatsBus.connect(server.url, source="agent")
    subscription = await bus.subscribe([Interest(NodeLeaving)], Got())
    kept = await bus.subscribe([Interest(NodeLeaving)], Got(), durable="agent")
    assert len(await js.consumers_info(RECORD)) == 2
    await subscription.stop()
    await kept.stop()
    assert [consumer.name for consumer in await js.consumers_info(RECORD)] == ["agent"]
    _ = [message async for message in bus.history([Interest(NodeLeaving)])]
    async with asyncio.timeout(PATIENCE):
        while len(await js.consumers_info(RECORD)) > 1:
            await bus.round_trip(PATIENCE)
    await bus.close()


async def test_more_than_the_receiver_has_room_for_waits_in_the_server(server: EmbeddedServer) -> None:
    """A receiver that acknowledges nothing is not flooded; it gets the rest as it acknowledges."""
    bus, receipts = await NatsBus.connect(server.url, source="agent", ack_wait=3600.0), list[Receipt]()
    reached = asyncio.Event()

    def hoard(message: Message, receipt: Receipt | None) -> None:
        assert receipt is not None
        receipts.append(receipt)
        if len(receipts) in (1024, 1500):
            reached.set()

    await asyncio.gather(*(bus.publish(record(number)) for number in range(1500)))
    await bus.subscribe([Interest(NodeLeaving)], hoard, start=Start.ALL)
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
    for _ in range(3):
        await bus.round_trip(PATIENCE)
    assert len(receipts) == 1024
    reached.clear()
    for receipt in tuple(receipts):
        receipt.ack()
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
    assert [receipt.sequence for receipt in receipts] == list(range(1, 1501))
    await bus.close()


async def test_objects_are_those_of_natss_object_store(server: EmbeddedServer, js: JetStreamContext) -> None:
    bus = await NatsBus.connect(server.url, source="agent")
    ours = b"a model" * 50_000
    await bus.put_object("j/model.safetensors", ours)
    store = await js.object_store(BUCKET)
    found = await store.get("j/model.safetensors")
    assert found.data == ours
    assert found.info.size == len(ours)
    await store.put("theirs", b"by another client" * 20_000)
    assert await bus.get_object("theirs") == b"by another client" * 20_000
    await store.delete("theirs")
    with pytest.raises(KeyError):
        await bus.get_object("theirs")
    await bus.close()


async def test_a_replaced_object_frees_its_room_and_a_damaged_one_is_told(
    server: EmbeddedServer, js: JetStreamContext
) -> None:
    bus = await NatsBus.connect(server.url, source="agent")
    for size in (1_000_000, 300_000):
        await bus.put_object("j/model", bytes(size))
    state = (await js.stream_info(STREAM)).state
    assert state.messages == 3 + 1  # chunks of 128 KiB, and what they are
    await js.delete_msg(STREAM, state.first_seq)
    with pytest.raises(CorruptObject, match="j/model"):
        await bus.get_object("j/model")
    await bus.close()


async def test_an_object_that_is_larger_than_it_may_be_is_not_read(server: EmbeddedServer, js: JetStreamContext) -> None:
    bus = await NatsBus.connect(server.url, source="agent")
    await bus.put_object("j/model", bytes(300_000))
    parts: list[None] = []
    assert await bus.get_object("j/model", limit=300_000, arrived=lambda: parts.append(None)) == bytes(300_000)
    assert len(parts) == 3
    with pytest.raises(ObjectTooLarge, match="more than the 299999 bytes"):
        await bus.get_object("j/model", limit=299_999)
    meta = await js.get_last_msg(STREAM, f"$O.{BUCKET}.M.>")
    assert meta.data is not None
    await js.publish(str(meta.subject), meta.data.replace(b"300000", b"10"), headers={"Nats-Rollup": "sub"})
    with pytest.raises(ObjectTooLarge):  # whatever it says of itself
        await bus.get_object("j/model", limit=1000)
    await bus.close()


def test_positions_are_read_from_both_forms_of_a_reply_subject() -> None:
    assert coordinates("$JS.ACK.S.C.2.10.7.1700000000.3") == (2, 10, 7, 3)
    assert coordinates("$JS.ACK._.hash.S.C.2.10.7.1700000000.3.token") == (2, 10, 7, 3)
    assert coordinates("$JS.ACK.domain.hash.S.C.2.10.7.1700000000.3") == (2, 10, 7, 3)


async def test_a_responder_gets_requests_of_any_client(server: EmbeddedServer) -> None:
    bus = await NatsBus.connect(server.url, source="desk")

    async def answer(body: bytes) -> bytes:
        return body[::-1]

    await bus.serve("shoal.jobs.list", answer)
    client: Any = await nats.connect(server.url)
    assert (await client.request("shoal.jobs.list", b"abc", timeout=PATIENCE)).data == b"cba"
    await client.publish("shoal.jobs.list", b"nobody to answer")
    assert (await client.request("shoal.jobs.list", b"xyz", timeout=PATIENCE)).data == b"zyx"
    await client.close()
    await bus.close()

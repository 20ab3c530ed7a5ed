"""The connection: what a first failure says, what a later loss says, and what the line is measured with."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from bus.nats import NatsBus, TooLarge
from bus.nats_link import LinkState
from bus.nats_streams import LATEST, RECORD, configs
from bus.port import BusError, Interest, Unreachable
from bus.segments import segments_of
from bus.server import EmbeddedServer
from bus.server_config import find_binary
from bus.several import address_of
from schemas.bus import BusDisturbed
from schemas.nodes import NodeHeartbeat, NodeLeaving
from schemas.wire import Delivery, Message, registered

SECRET = "a-secret-token"


class States:
    """Keeps what `on_state` is told."""

    def __init__(self) -> None:
        self.told: list[tuple[LinkState, str]] = []
        self._changed = asyncio.Event()

    def __call__(self, state: LinkState, reason: str) -> None:
        self.told.append((state, reason))
        self._changed.set()

    async def reach(self, state: LinkState) -> str:
        """The reason, once that state was told."""
        async with asyncio.timeout(20):
            while True:
                for told, reason in self.told:
                    if told is state:
                        return reason
                self._changed.clear()
                await self._changed.wait()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_with_no_server_the_first_attempt_fails_and_says_the_mend() -> None:
    port = free_port()
    with pytest.raises(Unreachable, match="shoal up") as told:
        await NatsBus.connect(f"nats://127.0.0.1:{port}", source="a")
    assert f"nats://127.0.0.1:{port}" in str(told.value)


async def test_something_that_is_no_nats_server_is_named() -> None:
    async def mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(mumble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
            await NatsBus.connect(f"nats://127.0.0.1:{port}", source="a")


async def test_a_wrong_token_is_refused_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedServer(tmp_path, token=SECRET) as server:
        for wrong in (None, "another-secret"):
            with pytest.raises(Unreachable, match="token") as told:
                await NatsBus.connect(server.url, source="a", token=wrong)
            assert "another-secret" not in str(told.value)
        with_token = server.url.replace("nats://", "nats://wrong-in-url@")
        with pytest.raises(Unreachable, match="token") as told:
            await NatsBus.connect(with_token, source="a")
        assert "wrong-in-url" not in str(told.value)
        bus = await NatsBus.connect(server.url, source="a", token=SECRET)
        await bus.close()
    assert SECRET not in caplog.text
    assert "another-secret" not in caplog.text


def test_addresses_are_shown_without_their_token() -> None:
    assert address_of("nats://token@host:4222") == "nats://host:4222"
    assert address_of("nats://user:password@host:4222") == "nats://host:4222"
    assert address_of("host:4222") == "nats://host:4222"


async def test_a_lost_server_is_told_and_reported_once_it_is_back(tmp_path: Path) -> None:
    states, got = States(), asyncio.Queue[Message]()
    async with EmbeddedServer(tmp_path) as server:
        bus = await NatsBus.connect(server.url, source="node/a", on_state=states)
        await bus.subscribe([Interest(BusDisturbed)], lambda message, receipt: got.put_nowait(message))
        await server.restart()
        await states.reach(LinkState.LOST)
        reason = await states.reach(LinkState.BACK)
        assert "out of reach" in reason
        async with asyncio.timeout(20):
            disturbed = await got.get()
        assert isinstance(disturbed, BusDisturbed)
        assert (disturbed.kind, disturbed.source) == ("reconnected", "node/a")
        assert disturbed.seconds > 0
        assert disturbed.id.startswith("node/a:")
        await bus.close()
    assert states.told[-1][0] is LinkState.CLOSED


async def test_after_closing_nothing_more_is_possible(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        bus = await NatsBus.connect(server.url, source="a", store_timeout=0.2)
        await bus.close()
        await bus.close()
        assert bus.closed
        with pytest.raises(BusError):
            await bus.publish(NodeLeaving(node="a", reason="", id="a:1:1"))


async def test_what_the_server_would_not_take_is_refused_before_it_costs_the_connection(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        bus = await NatsBus.connect(server.url, source="a")
        huge = "x" * 2_000_000
        with pytest.raises(TooLarge, match="object store"):
            await bus.publish(NodeLeaving(node="a", reason=huge))
        with pytest.raises(TooLarge):
            await bus.publish(BusDisturbed(kind="gap", reason=huge))
        with pytest.raises(TooLarge):
            await bus.request("shoal.jobs.submit", huge.encode(), 5.0)
        await bus.publish(NodeLeaving(node="a", reason="x" * 900_000, id="a:1:1"))
        assert await bus.round_trip(10.0) is not None
        await bus.close()


async def test_tcp_says_how_much_it_sent_again(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        bus = await NatsBus.connect(server.url, source="a")
        await bus.round_trip(10.0)
        assert bus.retransmitted() in (0.0, None)
        assert bus.retransmitted() is None  # nothing was sent since
        await bus.close()


async def test_segments_are_counted_on_a_connection_that_sends() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        raw = writer.get_extra_info("socket")
        before = segments_of(raw)
        writer.write(b"x" * 10_000)
        await writer.drain()
        after = segments_of(raw)
        assert before is not None
        assert after is not None
        assert after[1] > before[1]
        writer.close()
        await writer.wait_closed()
    assert segments_of(None) is None


async def test_the_streams_capture_stored_types_and_nothing_else(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        bus = await NatsBus.connect(server.url, source="a")
        client = await nats.connect(server.url)
        js = client.jetstream()
        subjects = {name: set((await js.stream_info(name)).config.subjects or ()) for name in (RECORD, LATEST)}
        wanted = {RECORD: Delivery.RECORD, LATEST: Delivery.LAST_VALUE}
        for name, delivery in wanted.items():
            assert subjects[name] == {wire.pattern for wire in registered() if wire.delivery is delivery}
        latest = (await js.stream_info(LATEST)).config
        assert latest.max_msgs_per_subject == 1
        await client.close()
        await bus.close()


async def test_streams_of_another_version_keep_their_subjects_and_get_ours(tmp_path: Path) -> None:
    record = configs()[0]
    older = StreamConfig(name=RECORD, subjects=["shoal.something.of.theirs", "shoal.nodes.*.leaving"])
    async with EmbeddedServer(tmp_path) as server:
        client = await nats.connect(server.url)
        js = client.jetstream()
        await js.add_stream(older)
        await js.publish("shoal.something.of.theirs", b"{}")
        bus = await NatsBus.connect(server.url, source="a")
        info = await js.stream_info(RECORD)
        assert set(info.config.subjects or ()) == {"shoal.something.of.theirs", *(record.subjects or ())}
        assert info.state.messages == 1
        await client.close()
        await bus.close()


async def test_streams_that_cannot_be_made_say_so(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(StreamConfig(name="theirs", subjects=["shoal.nodes.>"]))
        await client.close()
        with pytest.raises(Unreachable, match="nats stream rm"):
            await NatsBus.connect(server.url, source="a")


async def test_a_server_that_comes_back_with_an_empty_store_is_filled_again(tmp_path: Path) -> None:
    states, got = States(), asyncio.Queue[Message]()
    server = EmbeddedServer(tmp_path / "one")
    await server.start()
    bus = await NatsBus.connect(server.url, source="a", on_state=states)
    await bus.subscribe([Interest(NodeLeaving), Interest(NodeHeartbeat)], lambda message, _: got.put_nowait(message))
    await bus.publish(NodeLeaving(node="a", reason="before", id="a:1:1"))
    async with asyncio.timeout(20):
        await got.get()
    port = server.ports.nats
    await server.stop()
    other = EmbeddedServer(tmp_path / "other", port=port)
    await other.start()
    await states.reach(LinkState.BACK)
    await bus.publish(NodeLeaving(node="a", reason="after", id="a:1:2"))
    async with asyncio.timeout(20):
        message = await got.get()
    assert isinstance(message, NodeLeaving)
    assert message.reason == "after"
    assert [m.id async for m in bus.history([Interest(NodeLeaving)])] == ["a:1:2"]
    await bus.close()
    await other.stop()


PERMISSIONS = """
listen: "127.0.0.1:%d"
jetstream { store_dir: "%s" }
authorization { users: [
  { user: node, password: secret, permissions: { publish: { deny: ["shoal.nodes.*.heartbeat"] } } }
] }
"""


async def test_a_permission_that_is_missing_is_reported(tmp_path: Path) -> None:
    """The server tells it after the fact; nothing else would show that messages don't arrive."""
    port, states, got = free_port(), States(), asyncio.Queue[Message]()
    config = tmp_path / "permissions.conf"
    config.write_text(PERMISSIONS % (port, tmp_path / "store"))
    server = await asyncio.create_subprocess_exec(
        (await find_binary()).path, "-c", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert server.stderr is not None
        async with asyncio.timeout(20):
            while b"Server is ready" not in await server.stderr.readline():
                pass
        bus = await NatsBus.connect(f"nats://node:secret@127.0.0.1:{port}", source="a", on_state=states)
        await bus.subscribe([Interest(BusDisturbed)], lambda message, _: got.put_nowait(message))
        await bus.publish(NodeHeartbeat(node="a", sequence=1, interval=1.0))
        assert "shoal.nodes.a.heartbeat" in await states.reach(LinkState.TROUBLE)
        async with asyncio.timeout(20):
            disturbed = await got.get()
        assert isinstance(disturbed, BusDisturbed)
        assert disturbed.kind == "permission"
        await bus.close()
    finally:
        server.kill()
        await server.communicate()


async def test_closing_while_the_server_is_gone_takes_seconds_and_tells_who_waits(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    bus = await NatsBus.connect(server.url, source="a", store_timeout=3600.0)
    hang = asyncio.Event()

    async def never(body: bytes) -> bytes:
        await hang.wait()
        return body

    await bus.serve("shoal.jobs.list", never)
    await bus.subscribe([Interest(NodeLeaving)], lambda message, receipt: None)
    client = await nats.connect(server.url)
    await client.publish("shoal.jobs.list", b"", reply="nowhere")
    await client.close()
    await server.stop()
    waiting = asyncio.ensure_future(bus.publish(NodeLeaving(node="a", reason="", id="a:1:1")))
    async with asyncio.timeout(20):
        await bus.close()
        with pytest.raises(Unreachable, match="closed"):
            await waiting


def test_the_bus_runs_on_both_loops(tmp_path: Path) -> None:
    async def there_and_back(store: Path) -> None:
        async with EmbeddedServer(store) as server:
            bus, got = await NatsBus.connect(server.url, source="a"), asyncio.Queue[Message]()
            await bus.subscribe(
                [Interest(NodeLeaving), Interest(NodeHeartbeat)], lambda message, _: got.put_nowait(message)
            )
            await server.restart()
            await bus.publish(NodeLeaving(node="a", reason="", id="a:1:1"))
            await bus.publish(NodeHeartbeat(node="a", sequence=1, interval=1.0, id="a:1:2"))
            async with asyncio.timeout(20):
                assert {(await got.get()).id, (await got.get()).id} == {"a:1:1", "a:1:2"}
            await bus.close()

    loops = [asyncio.new_event_loop]
    with suppress(ImportError):
        import uvloop

        loops.append(uvloop.new_event_loop)
    for number, loop in enumerate(loops):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(there_and_back(tmp_path / str(number)))


def test_a_connection_that_has_ended_tells_nothing() -> None:
    one, other = socket.socketpair()
    one.close()
    other.close()
    assert segments_of(one) is None

    class Ended(socket.socket):  # as uvloop's are, once their transport is closed
        def getsockopt(self, *what: int) -> bytes:  # type: ignore[override]
            raise ValueError("negative file descriptor")

    with Ended() as ended:
        assert segments_of(ended) is None

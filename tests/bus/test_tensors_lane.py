"""The connection for chunks: what it makes of bytes however they are split, of refusals, of encryption, of losses."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.port import Unreachable
from bus.server import EmbeddedServer
from bus.server_config import find_binary
from bus.tensor_lane import Lane, credentials
from bus.tensor_wire import Connection
from bus.tensors import TensorBus

PATIENCE = 30.0  # seconds: far more than anything here takes on a busy machine
TLS = """
listen: "127.0.0.1:%d"
tls { cert_file: "%s", key_file: "%s" }
jetstream { store_dir: "%s" }
"""


class Heard:
    """What a subscription heard."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, int]] = []
        self._changed = asyncio.Event()

    def __call__(self, subject: str, payload: memoryview, status: int) -> None:
        self.messages.append((subject, bytes(payload), status))
        self._changed.set()

    async def reach(self, count: int) -> None:
        """Returns once so many came."""
        async with asyncio.timeout(PATIENCE):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as made:
        yield made


def fed(data: bytes, cuts: list[int]) -> tuple[list[tuple[str, bytes, int]], Connection]:
    """What a connection hears when these bytes come in these portions."""

    async def feed() -> tuple[list[tuple[str, bytes, int]], Connection]:
        heard = Heard()
        connection = Connection({7: heard}, lambda _: None, 1 << 16)
        rest, portions = data, iter(cuts)
        while rest and not connection.error:
            room = connection.get_buffer(-1)
            size = min(len(room), len(rest), next(portions, len(rest)))
            room[:size] = rest[:size]
            rest = rest[size:]
            connection.buffer_updated(size)
        return heard.messages, connection

    return asyncio.run(feed())


payloads = st.lists(st.binary(max_size=40_000), max_size=5)


@settings(max_examples=40, deadline=None)
@given(payloads=payloads, cuts=st.lists(st.integers(1, 30_000), max_size=60))
def test_messages_are_whole_however_their_bytes_are_split(payloads: list[bytes], cuts: list[int]) -> None:
    sent = b'INFO {"max_payload": 1}\r\n+OK\r\n'
    expected = []
    for index, payload in enumerate(payloads):
        sent += b"MSG a.%d 7 %d\r\n%b\r\n" % (index, len(payload), payload)
        sent += b"MSG a.x 7 reply.to %d\r\n%b\r\nMSG other 8 3\r\nabc\r\n" % (len(payload), payload)
        headers = b"NATS/1.0 503\r\n\r\n"
        sent += b"HMSG a.h 7 %d %d\r\n%b%b\r\n" % (len(headers), len(headers) + len(payload), headers, payload)
        expected += [(f"a.{index}", payload, 0), ("a.x", payload, 0), ("a.h", payload, 503)]
    messages, connection = fed(sent, cuts)
    assert messages == expected
    assert connection.info.result() == {"max_payload": 1}
    assert connection.error == ""


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400 Bad Request\r\n", b"MSG a\r\n", b"MSG a 7 many\r\n", b"HMSG a 7 9 3\r\nabc\r\n", b"x" * 20_000],
)
def test_what_is_no_nats_ends_the_connection(data: bytes) -> None:
    messages, connection = fed(data, [])
    assert messages == []
    assert "doesn't speak NATS" in connection.error


async def test_chunks_go_there_and_back_and_nobody_is_told_of_as_such(server: EmbeddedServer) -> None:
    one, other, heard, nobody = Lane(server.url, "one", None), Lane(server.url, "other", None), Heard(), Heard()
    await one.open()
    await other.open()
    sid = other.subscribe("t.*", "", heard)
    one.subscribe("nobody.*", "", nobody)
    assert await other.barrier(PATIENCE)
    large = os.urandom(1_000_000)
    await one.publish("t.1", (b"in ", memoryview(large)))
    await one.publish("t.2", (b"",), "nobody.2")
    await heard.reach(2)
    assert heard.messages == [("t.1", b"in " + large, 0), ("t.2", b"", 0)]
    other.unsubscribe(sid)
    assert await other.barrier(PATIENCE)
    await one.publish("t.3", (b"x",), "nobody.3")
    await nobody.reach(1)
    assert nobody.messages == [("nobody.3", b"", 503)]
    await one.close()
    await other.close()
    with pytest.raises(ConnectionError):
        await one.publish("t.4", (b"x",))
    with pytest.raises(Unreachable):
        await one.wait_up(PATIENCE)
    assert not await one.barrier(PATIENCE)


async def test_a_lane_comes_back_with_its_subscriptions(server: EmbeddedServer) -> None:
    lane, sender, heard, back = Lane(server.url, "a", None), Lane(server.url, "b", None), Heard(), asyncio.Event()
    await lane.open()
    await sender.open()
    lane.subscribe("t.*", "", heard)
    lane.on_back.append(back.set)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await back.wait()
    await sender.wait_up(PATIENCE)
    await sender.publish("t.1", (b"again",))
    await heard.reach(1)
    await lane.close()
    await sender.close()


async def test_what_changes_while_a_lane_comes_back_holds(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, other = Lane(server.url, "one", None), Lane(server.url, "other", None)
    await lane.open()
    dropped, late, back = Heard(), Heard(), asyncio.Event()
    early = lane.subscribe("t.early", "g", dropped)
    lane.on_back.append(back.set)
    ping = Connection.ping

    def change_before_the_first_pong(connection: Connection) -> "asyncio.Future[None]":
        monkeypatch.setattr(Connection, "ping", ping)
        lane.unsubscribe(early)
        lane.subscribe("t.late", "g", late)
        return ping(connection)

    monkeypatch.setattr(Connection, "ping", change_before_the_first_pong)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await back.wait()
    await other.open()
    await other.publish("t.early", (b"x",))
    await other.publish("t.late", (b"y",))
    await late.reach(1)
    assert [payload for _, payload, _ in late.messages] == [b"y"]
    assert dropped.messages == []
    await lane.close()
    await other.close()


async def test_a_lane_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Unreachable, match="shoal up"):
        await Lane(f"nats://127.0.0.1:{port}", "a", None).open()
    async with EmbeddedServer(tmp_path, token="right") as server:
        with pytest.raises(Unreachable, match="refused the token") as told:
            await Lane(server.url, "a", "wrong-secret").open()
        assert "wrong-secret" not in str(told.value)
        lane = Lane(server.url.replace("nats://", "nats://right@"), "a", None)
        await lane.open()
        await lane.close()


async def test_a_server_that_greets_and_falls_silent_is_given_up() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {}\r\n")
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unreachable, match="can't be reached"):
            await Lane(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", "a", None).open()


def test_credentials_are_those_of_the_url_or_the_token() -> None:
    assert credentials("user", "password") == {"user": "user", "pass": "password"}
    assert credentials("token", None) == {"auth_token": "token"}
    assert credentials(None, None) == {}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_tensors_travel_encrypted_where_the_server_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate, config = tmp_path / "key.pem", tmp_path / "cert.pem", tmp_path / "tls.conf"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config.write_text(TLS % (port, certificate, key, tmp_path / "store"))
    server = await asyncio.create_subprocess_exec(
        (await find_binary()).path, "-c", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert server.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while b"Server is ready" not in await server.stderr.readline():
                pass
        url = f"nats://127.0.0.1:{port}"
        a, b = [await TensorBus.connect(url, job="j", node=node) for node in "ab"]
        await b.follow("delta")
        data = os.urandom(3_000_000)
        held = a.keep("delta", "1", data)
        assert await a.stream("delta", "1")
        assert await b.fetch("a", "delta", "1", held.size, held.digest, PATIENCE) == data
        await a.close()
        await b.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(key))
        with pytest.raises(Unreachable):
            await Lane(url, "a", None).open()
    finally:
        server.kill()
        await server.communicate()

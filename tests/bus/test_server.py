"""The embedded server: the real binary, real sockets, real signals."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.js.api import StreamConfig

from bus import processes
from bus.backoff import RestartPolicy
from bus.locks import AlreadyLocked
from bus.server import EmbeddedServer, ServerExited, ServerRestarted
from bus.server_config import Ports, ServerRefused, last_url, recorded
from bus.server_process import PortTaken, ServerFailed

PATIENCE = 20.0  # seconds; only a failing test waits this long
AT_ONCE = RestartPolicy(first=0.0, limit=0.0)
MIB = 1024 * 1024  # bytes
OWNER = """
import asyncio, json, sys
from pathlib import Path
import uvloop
from bus.server import EmbeddedServer

async def main():
    async with EmbeddedServer(Path(sys.argv[1])) as server:
        print(json.dumps({"pid": server.pid, "port": server.ports.nats, "websocket": server.ports.websocket}), flush=True)
        await asyncio.Event().wait()

uvloop.run(main())
"""


async def quiet(error: Exception) -> None:
    """What nats-py tells its error callback is no news in these tests."""


async def connect(server: EmbeddedServer, token: str | None = None) -> nats.NATS:
    return await nats.connect(server.url, token=token, allow_reconnect=False, error_cb=quiet, connect_timeout=PATIENCE)


async def store_something(server: EmbeddedServer, text: bytes) -> None:
    client = await connect(server)
    stream = client.jetstream()
    await stream.add_stream(StreamConfig(name="kept", subjects=["kept.>"]))
    await stream.publish("kept.a", text)
    await client.close()


async def stored(server: EmbeddedServer) -> bytes | None:
    client = await connect(server)
    message = await client.jetstream().get_last_msg("kept", "kept.a")
    await client.close()
    return message.data


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_up_usable_and_gone_again(tmp_path: Path) -> None:
    store = tmp_path / "a store"
    server = EmbeddedServer(store)
    await server.start()
    pid, port = server.pid, server.ports.nats
    assert server.url == f"nats://127.0.0.1:{port}" == last_url(store)
    await store_something(server, b"x")
    assert await stored(server) == b"x"
    assert (store / "jetstream").is_dir()
    assert f"Version:  {server.version}" in server.log_path.read_text()
    await server.stop()
    await server.stop()
    assert pid is not None
    assert not processes.is_alive(pid)
    assert not accepts(port)
    assert server.pid is None


async def test_a_store_keeps_its_port_and_its_messages(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        await store_something(server, b"from before")
        ports = server.ports
    async with EmbeddedServer(tmp_path) as again:
        assert again.ports == ports
        assert await stored(again) == b"from before"
        await again.restart()
        assert again.ports == ports
        assert await stored(again) == b"from before"


async def test_a_remembered_port_that_is_taken_is_given_up(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "a") as server:
        ports = server.ports
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "server.json").write_text((tmp_path / "a" / "server.json").read_text())
    async with EmbeddedServer(tmp_path / "a") as first, EmbeddedServer(tmp_path / "b") as second:
        assert first.ports == ports
        assert second.ports.nats != ports.nats
        assert await (await connect(second)).rtt() < PATIENCE


async def test_one_server_to_a_store(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        with pytest.raises(AlreadyLocked, match="--store") as refused:
            await EmbeddedServer(tmp_path).start()
        assert refused.value.holder == os.getpid()
        assert await (await connect(server)).rtt() < PATIENCE


async def test_the_server_holds_the_store_as_long_as_it_lives(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        lock = (tmp_path / "server.lock").stat()
        files = [os.stat(entry.path) for entry in os.scandir(f"/proc/{server.pid}/fd")]
        assert any(os.path.samestat(lock, each) for each in files)


async def test_a_killed_server_comes_back_on_its_port_with_what_was_stored(tmp_path: Path) -> None:
    exits: asyncio.Queue[ServerExited] = asyncio.Queue()
    restarts: asyncio.Queue[ServerRestarted] = asyncio.Queue()
    server = EmbeddedServer(tmp_path, policy=AT_ONCE, on_exit=exits.put_nowait, on_restart=restarts.put_nowait)
    async with server:
        await store_something(server, b"acknowledged")
        back = asyncio.Event()

        async def on_back() -> None:
            back.set()

        client = await nats.connect(
            server.url, reconnected_cb=on_back, error_cb=quiet, reconnect_time_wait=0.01, max_reconnect_attempts=-1
        )
        ports = server.ports
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        ended = await asyncio.wait_for(exits.get(), PATIENCE)
        restarted = await asyncio.wait_for(restarts.get(), PATIENCE)
        assert (ended.code, ended.crash_loop) == (-signal.SIGKILL, False)
        assert (server.pid, server.ports) == (restarted.pid, ports)
        assert 0 < restarted.down_s < PATIENCE
        await asyncio.wait_for(back.wait(), PATIENCE)
        assert (await client.jetstream().get_last_msg("kept", "kept.a")).data == b"acknowledged"
        await client.close()


async def test_a_server_that_cant_come_back_is_tried_again_until_it_can(tmp_path: Path) -> None:
    exits: asyncio.Queue[ServerExited] = asyncio.Queue()
    restarts: asyncio.Queue[ServerRestarted] = asyncio.Queue()
    policy = RestartPolicy(first=0.01, limit=0.01, loop_after=2)
    server = EmbeddedServer(tmp_path, policy=policy, on_exit=exits.put_nowait, on_restart=restarts.put_nowait)
    async with server:
        assert server.pid is not None
        jetstream = tmp_path / "jetstream"
        aside = jetstream.rename(tmp_path / "aside")
        jetstream.write_text("in the way")
        os.kill(server.pid, signal.SIGKILL)
        assert (await asyncio.wait_for(exits.get(), PATIENCE)).code == -signal.SIGKILL
        failed = await asyncio.wait_for(exits.get(), PATIENCE)
        assert (failed.code, failed.crash_loop) == (None, True)
        assert any("storage directory" in line for line in failed.last_lines)
        assert server.pid is None
        jetstream.unlink()
        aside.rename(jetstream)
        await asyncio.wait_for(restarts.get(), PATIENCE)
        assert await (await connect(server)).rtt() < PATIENCE


async def test_a_failed_start_says_what_the_server_said_and_leaves_the_store_free(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("in the way")
    with pytest.raises(ServerFailed, match=r"nats-server\.log.*storage directory") as failed:
        await EmbeddedServer(tmp_path).start()
    assert any("storage directory" in line for line in failed.value.last_lines)
    (tmp_path / "jetstream").unlink()
    async with EmbeddedServer(tmp_path):
        pass


async def test_a_port_asked_for_is_that_port_or_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as refused:
            await EmbeddedServer(tmp_path, port=port).start()
        assert refused.value.port == port
    async with EmbeddedServer(tmp_path, port=port) as server:
        assert server.url == f"nats://127.0.0.1:{port}"
        ports = server.ports
    async with EmbeddedServer(tmp_path, port=port) as server:
        assert server.ports == ports  # a browser finds it again too


async def test_a_token_is_asked_for_and_told_nobody(tmp_path: Path) -> None:
    token = "90210777"  # a number to the server's configuration, were it not quoted
    async with EmbeddedServer(tmp_path, listen="0.0.0.0", token=token) as server:
        for wrong in (None, "90210778"):
            with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
                await connect(server, wrong)
        assert await (await connect(server, token)).rtt() < PATIENCE
        assert server.url == f"nats://127.0.0.1:{server.ports.nats}"
        assert server.join_url.startswith(f"nats://{token}@")
        told = [Path(f"/proc/{server.pid}/cmdline"), server.log_path, tmp_path / "server.json"]
        assert not any(token in path.read_text() for path in told)


async def test_without_a_token_only_loopback(tmp_path: Path) -> None:
    with pytest.raises(ServerRefused, match="token"):
        EmbeddedServer(tmp_path, listen="0.0.0.0")
    with pytest.raises(ServerRefused, match="no such address"):
        await EmbeddedServer(tmp_path, listen="192.0.2.1", token="t").start()
    async with EmbeddedServer(tmp_path, listen="::1") as server:
        assert server.url.startswith("nats://[::1]:")
        assert await (await connect(server)).rtt() < PATIENCE


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("http://evil.example:{port}", 403),  # a name made to resolve to 127.0.0.1 ("DNS rebinding")
        ("http://127.0.0.1", 403),
        ("http://127.0.0.1:{port}", 101),
    ],
)
async def test_web_pages_from_elsewhere_are_refused(tmp_path: Path, origin: str, status: int) -> None:
    async with EmbeddedServer(tmp_path) as server:
        port = server.ports.websocket
        assert server.websocket_url == f"ws://127.0.0.1:{port}"
        assert await handshake(port, origin.format(port=port)) == status


async def handshake(port: int, origin: str) -> int:
    """The status of a WebSocket handshake as a browser would send it from a page of `origin`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    host = origin.removeprefix("http://")
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = await asyncio.wait_for(reader.readline(), PATIENCE)
    writer.close()
    return int(answer.split()[1])


async def test_origins_can_be_listed(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, origins=("http://panel.example:8080",)) as server:
        assert await handshake(server.ports.websocket, "http://panel.example:8080") == 101
        assert await handshake(server.ports.websocket, f"http://127.0.0.1:{server.ports.websocket}") == 403


async def test_a_mebibyte_with_headers_fits(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        client = await connect(server)
        subscription = await client.subscribe("big")
        await client.publish("big", b"x" * MIB, headers={"Nats-Msg-Id": "1"})
        assert len((await subscription.next_msg(PATIENCE)).data) == MIB
        await client.close()


def test_when_the_parent_is_killed_nothing_is_left(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    facts = json.loads(parent.stdout.readline())
    parent.kill()
    parent.communicate()

    async def start_over() -> Ports:
        # At once, without waiting for the old server's end: it gets the store and the port when they are free.
        async with EmbeddedServer(tmp_path) as server:
            return server.ports

    ports = asyncio.run(start_over())
    assert ports == Ports(nats=facts["port"], websocket=facts["websocket"])
    assert processes.wait_gone(facts["pid"], PATIENCE)
    assert not accepts(facts["port"])
    assert recorded(tmp_path)["pid"] != facts["pid"]

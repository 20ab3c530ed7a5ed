"""Congestion control of real connections."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bus import server as server_module
from bus.congestion import BBR, ask_for_bbr, ask_for_child, bbr_allowed, default_control
from bus.server import EmbeddedServer

OPTION = getattr(socket, "TCP_CONGESTION", None)

CHILD = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
early, _ = listener.accept()
other = socket.create_connection(listener.getsockname())
print("accepted", flush=True)
input()
late, _ = listener.accept()
for one in (early, late, other):
    print(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode(), flush=True)
"""
"""Listens, has one connection when BBR is asked for and gets another, and has one of its own to somewhere."""


@asynccontextmanager
async def connection() -> AsyncIterator[asyncio.Transport]:
    """A connection to a listener of the test's own."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)
    yield transport
    transport.abort()
    server.close()


def control(transport: asyncio.Transport) -> str:
    """What the kernel says a connection has."""
    assert OPTION is not None
    sock: socket.socket = transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as same:
        return same.getsockopt(socket.IPPROTO_TCP, OPTION, 16).rstrip(b"\0").decode()


@pytest.mark.skipif(OPTION is None, reason="this system has one congestion control for all")
async def test_a_connection_has_what_it_was_told_that_it_got() -> None:
    async with connection() as transport:
        before = control(transport)
        assert before == default_control()
        got = ask_for_bbr(transport)
        assert control(transport) == (BBR if got else before)
        assert got is bbr_allowed() or before == BBR


async def test_a_connection_that_is_gone_is_no_fault() -> None:
    async with connection() as transport:
        transport.abort()
        await asyncio.sleep(0)
        assert ask_for_bbr(transport) in (True, False)


@pytest.mark.skipif(sys.platform != "linux", reason="nobody asks for another process elsewhere")
def test_what_a_child_sends_from_its_port_gets_it_and_nothing_else() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        port = int(child.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            assert child.stdout.readline() == "accepted\n"
            got = ask_for_child(child.pid, port)
            with socket.create_connection(("127.0.0.1", port)):
                said, _ = child.communicate("\n")
    assert got is bbr_allowed()
    asked = BBR if got else default_control()
    assert said.split() == [asked, asked, default_control()]
    assert not ask_for_child(child.pid, port)  # it is gone


@pytest.mark.parametrize(("loopback", "asked"), [(True, 0), (False, 2)])
async def test_a_server_that_others_reach_is_asked_for_at_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loopback: bool, asked: int
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(server_module, "is_loopback", lambda _: loopback)
    monkeypatch.setattr(server_module, "ask_for_child", lambda pid, port: calls.append((pid, port)))
    async with EmbeddedServer(tmp_path / "store") as server:
        first = server.pid
        await server.restart()
        assert [(pid, server.ports.nats) for pid in (first, server.pid)][:asked] == calls

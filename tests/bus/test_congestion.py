"""Congestion control of real connections."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bus.congestion import BBR, ask_for_bbr, bbr_allowed, default_control

OPTION = getattr(socket, "TCP_CONGESTION", None)


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

"""Which congestion control connections get: BBR for tensors, where the system lets an ordinary process ask for it.

Most systems use cubic, which takes every lost packet for a full link: measured on emulated links that lose 0.1 to 3 %, one
stream carries 4 to 35 times as much with BBR (https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/). It is the sender's
choice: a node asks for what it sends itself; what the server sends goes by its machine's default.
"""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

BBR = "bbr"
_OPTION = getattr(socket, "TCP_CONGESTION", None)  # Linux and FreeBSD have it
_DEFAULT = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


def ask_for_bbr(transport: asyncio.BaseTransport) -> bool:
    """BBR for what a TCP connection sends from now on; whether it got it. Where it can't, nothing changes."""
    if _OPTION is None:
        return False
    with contextlib.suppress(OSError, ValueError):  # not built in, not allowed, or the connection is gone
        # A descriptor of our own: uvloop's stand-in for the socket lacks options.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.IPPROTO_TCP, _OPTION, BBR.encode())
        return True
    return False


def default_control() -> str | None:
    """What this machine's connections get that ask for nothing, such as nats-server's; None where it can't be told."""
    return _read(_DEFAULT)


def bbr_allowed() -> bool | None:
    """Whether an ordinary process gets BBR by asking; None where it can't be told."""
    allowed = _read(_ALLOWED)
    return None if allowed is None else BBR in allowed.split()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None

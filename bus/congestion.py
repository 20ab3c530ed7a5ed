"""Which congestion control connections get: BBR for tensors, where the system lets an ordinary process ask for it.

Most systems use cubic, which takes every lost packet for a full link: measured on emulated links that lose 0.1 to 3 %, one
stream carries 4 to 35 times as much with BBR (https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/). It is the sender's
choice: a node asks for what it sends itself. A nats-server doesn't ask; its parent does so for it, on the socket that it
listens at, whose connections inherit it, and on those that it has already.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from pathlib import Path

BBR = "bbr"
_PIDFD_GETFD = 438  # the system call's number, on every machine (Linux 5.6): pidfd_getfd(2)
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


def ask_for_child(pid: int, port: int) -> bool:
    """BBR for all that a child of this process sends over TCP from a port that it listens at; whether it got it.

    Needs Linux, and a child: of other processes the kernel hands out no descriptors (ptrace(2), access mode checking).
    """
    if sys.platform != "linux":
        return False
    listening = False
    with contextlib.suppress(OSError):  # the child is gone, or the kernel is older
        child = os.pidfd_open(pid)
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                listening |= _ask_for_descriptor(child, int(number), port)
        finally:
            os.close(child)
    return listening


def _ask_for_descriptor(child: int, number: int, port: int) -> bool:
    """BBR for one of a child's descriptors, if it is a TCP socket at that port; whether it listens there and got it."""
    mine = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, child, number, 0)
    if mine < 0:
        return False
    try:
        same = socket.socket(fileno=mine)
    except OSError:
        os.close(mine)
        return False  # no socket
    with same, contextlib.suppress(OSError):
        if same.family in (socket.AF_INET, socket.AF_INET6) and same.getsockname()[1] == port:
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, BBR.encode())
            return bool(same.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False


def default_control() -> str | None:
    """What this machine's connections get that ask for nothing; None where it can't be told."""
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

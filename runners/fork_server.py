"""Processes that start at once: what they import is imported here, one time, and each of them is a fork of this one.

torch and what its optimizers need take seconds to import, and a quarter of a gigabyte; a fork has both in milliseconds and
shares the memory. A node starts this with its first job (`runners.fork_client`), where the system forks safely (Linux).
Nothing of a user's runs in here, there is one thread, and CUDA is not touched: a fork could use neither.

Requests come over a socket, each with the descriptor that its process prints to; that a process has ended is told there.
When the socket ends, so does this, and its processes with it.
"""

import argparse
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bus import processes
from runners.fork_client import MESSAGE, Exited, Fork, Forked, NotForked


def serve(node: socket.socket) -> Fork | None:
    """Forks as asked. Returns in each fork with what was asked for, and here, once the node is gone, with None."""
    with _deaths() as deaths:
        while True:
            ready, _, _ = select.select([node.fileno(), deaths], [], [])
            if deaths in ready:
                os.read(deaths, 4096)
                _tell_exits(node)
            if node.fileno() in ready:
                data, descriptors, _, _ = socket.recv_fds(node, MESSAGE, 1)
                if not data:
                    return None
                request = msgspec.json.decode(data, type=Fork)
                if _fork(node, request, descriptors[0]):
                    return request


@contextlib.contextmanager
def _deaths() -> Iterator[int]:
    """A descriptor that can be read when a child has ended."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.signal(signal.SIGCHLD, lambda number, frame: None)  # the byte in the pipe is all that is wanted of it
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)
        os.close(read)
        os.close(write)


def _tell_exits(node: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):  # there are no children
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            node.send(msgspec.json.encode(Exited(pid, os.waitstatus_to_exitcode(status))))


def _fork(node: socket.socket, request: Fork, output: int) -> bool:
    """Whether this is the fork. The node is told of one once it can be signalled with all that it starts."""
    me = os.getpid()
    in_session, let_go = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        for descriptor in (output, in_session, let_go):
            os.close(descriptor)
        node.send(msgspec.json.encode(NotForked(request.number, str(error))))
        return False
    if pid:
        os.close(output)
        os.close(let_go)
        os.read(in_session, 1)  # ends when the fork lets go, or dies
        os.close(in_session)
        node.send(msgspec.json.encode(Forked(request.number, pid)))
        return False
    processes.die_with_parent(me)
    os.setsid()
    node.close()  # before the node hears of this: should the server die, its end of the socket must be the last
    os.close(let_go)
    os.close(in_session)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    sys.dont_write_bytecode = not request.bytecode
    if "numpy" in sys.modules:  # Python's own generator is seeded anew by itself; numpy's would give all forks the same
        sys.modules["numpy"].random.seed()
    return True


def main() -> int:
    """Serve the node; in a fork, do what it was made for."""
    parser = argparse.ArgumentParser(prog="python -m runners.fork_server", description=__doc__)
    parser.add_argument("call", help="module:function that a fork calls with its specification's path, for its exit code")
    parser.add_argument("also", nargs="*", help="modules to import besides")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the node's socket")
    options = parser.parse_args()
    node = socket.socket(fileno=options.socket)
    module, _, function = options.call.partition(":")
    call = getattr(importlib.import_module(module), function)
    for name in options.also:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is never collected is never written to, so that forks share it
    request = serve(node)
    return 0 if request is None else int(call(Path(request.spec)))


if __name__ == "__main__":
    sys.exit(main())

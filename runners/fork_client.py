"""A node's end of `runners.fork_server`: job processes that are there at once, since torch is imported already."""

import asyncio
import contextlib
import os
import signal
import socket
from asyncio import StreamReader, StreamReaderProtocol
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bus import processes

LINGER = 60.0
"""Seconds that the fork server stays after its last process: a job that goes on, or its next attempt, comes within seconds;
a machine that has nothing to do gets its memory (a quarter of a gigabyte) back."""
MESSAGE = 16 * 1024
"""Bytes of a message at most: two paths and some numbers."""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Wanted: a process. The descriptor that it prints to comes along."""

    number: int
    spec: str
    """The file that says what it has to do."""
    bytecode: bool
    """Whether Python may keep what it compiles of the job's code."""


class Forked(msgspec.Struct, frozen=True, tag=True):
    """It runs."""

    number: int
    pid: int


class NotForked(msgspec.Struct, frozen=True, tag=True):
    """The system has no room for it."""

    number: int
    reason: str


class Exited(msgspec.Struct, frozen=True, tag=True):
    """It has ended."""

    pid: int
    code: int
    """The exit code; negative: the signal that killed it."""


class ForkServerGone(OSError):
    """The fork server ended before it answered; torch can't be imported, or somebody killed it."""


class ForkedProcess:
    """A process of the fork server's, to be used as one of `asyncio.subprocess`'s."""

    def __init__(self, pid: int, stdout: StreamReader, output: asyncio.ReadTransport, code: asyncio.Future[int]) -> None:
        self.pid = pid
        self.stdout = stdout
        self._output = output
        self._code = code

    @property
    def returncode(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._code.result() if self._code.done() else None

    def send_signal(self, number: signal.Signals) -> None:
        """Raises ProcessLookupError where it has ended."""
        if self._code.done():
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Its exit code; what it printed is read no further."""
        code = await asyncio.shield(self._code)
        self._output.close()
        return code


@dataclass(frozen=True, slots=True)
class _Life:
    pid: int
    code: asyncio.Future[int]
    """Its exit code, as soon as it has ended."""


class ForkServer:
    """Starts the server at the first process that is wanted, and again after its end. For the main thread's loop alone."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], *, nice: int, linger: float = LINGER) -> None:
        """`argv`: the server's program; `--socket N` is added. `env`: all that
        it and its processes have for an environment. `nice`: what is added to their niceness."""
        self._argv = argv
        self._env = env
        self._nice = nice
        self._linger = linger
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._number = 0
        self._wanted: dict[int, asyncio.Future[_Life]] = {}
        self._running: dict[int, asyncio.Future[int]] = {}
        self._leaving: asyncio.TimerHandle | None = None

    async def start(self, spec: Path, *, bytecode: bool = True) -> ForkedProcess:
        """A process for a specification, in a session of its own. Cancelled, none is left.

        Raises:
            ForkServerGone: the server ended.
            OSError: it can't be started, or the system has no room for the process.
        """
        theirs, ours = await _pipe()
        try:
            known = self._socket is not None
            try:
                life = await self._fork(spec, bytecode, theirs)
            except ForkServerGone:
                if not known:
                    raise
                life = await self._fork(spec, bytecode, theirs)  # it had ended before, and nobody here had heard of it
        except BaseException:
            ours[1].close()
            raise
        finally:
            os.close(theirs)
        return ForkedProcess(life.pid, *ours, life.code)

    async def _fork(self, spec: Path, bytecode: bool, output: int) -> _Life:
        self._number += 1
        number = self._number
        answer: asyncio.Future[_Life] = asyncio.get_running_loop().create_future()
        try:
            connection = await self._connection()  # last of all: it may be closed while something else is waited for
            self._wanted[number] = answer
            try:
                socket.send_fds(connection, [msgspec.json.encode(Fork(number, str(spec), bytecode))], [output])
            except (BrokenPipeError, ConnectionResetError):
                self._gone()
            return await answer
        except BaseException:
            self._wanted.pop(number, None)
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _kill(answer.result().pid)
            raise

    async def close(self) -> None:
        """End the server, and with it whatever still runs."""
        if self._process is not None:
            processes.kill(self._process)
            await self._process.wait()
        self._gone()

    async def _connection(self) -> socket.socket:
        async with self._starting:
            if self._leaving is not None:
                self._leaving.cancel()
                self._leaving = None
            if self._socket is None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    try:
                        self._process = await processes.spawn(
                            (*self._argv, "--socket", str(theirs.fileno())),
                            env=self._env, inherit=False,
                            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                            nice=self._nice, new_session=True, pass_fds=(theirs.fileno(),),
                        )  # fmt: skip
                    except BaseException:
                        ours.close()
                        raise
                ours.setblocking(False)
                self._socket = ours
                asyncio.get_running_loop().add_reader(ours.fileno(), self._read)
            return self._socket

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._gone()
            return
        match msgspec.json.decode(data, type=Forked | NotForked | Exited):
            case Forked(number, pid):
                self._running[pid] = code = asyncio.get_running_loop().create_future()
                answer = self._wanted.pop(number, None)
                if answer is None or answer.done():  # nobody waits for it any more
                    _kill(pid)
                else:
                    answer.set_result(_Life(pid, code))
            case NotForked(number, reason):
                answer = self._wanted.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_exception(OSError(reason))
            case Exited(pid, code):
                self._running.pop(pid).set_result(code)
        if not self._wanted and not self._running and self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(self._linger, self._gone)

    def _gone(self) -> None:
        """Let go of the server, which ends when its socket does; its processes die with it."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        wanted, self._wanted = self._wanted, {}
        for answer in wanted.values():
            if not answer.done():
                answer.set_exception(ForkServerGone("the fork server has ended"))
        running, self._running = self._running, {}
        for code in running.values():
            code.set_result(-signal.SIGKILL)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def _pipe() -> tuple[int, tuple[StreamReader, asyncio.ReadTransport]]:
    """A pipe's end to write to, and a reader of the other."""
    read, write = os.pipe()
    reader = StreamReader()
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: StreamReaderProtocol(reader), os.fdopen(read, "rb", 0)
        )
    except BaseException:
        os.close(write)
        raise
    return write, (reader, transport)

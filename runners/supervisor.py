"""Starts agents and nodes as child processes, starts them again when they end unasked, and ends them in order."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from bus import processes
from bus.backoff import RestartHistory, RestartPolicy
from bus.child_log import last_lines, open_log
from schemas.errors import ShoalError

# These and the server's own 2 s leave one and a half of the ten seconds in which everything is to end.
GRACE = 5.0  # seconds for children to say goodbye before SIGKILL
WORK_GRACE = 1.5  # seconds for the supervisor's own work to clean up after itself once cancelled
_SPAWN_FAILED = 127  # the shell's exit code for a command that can't be run

T = TypeVar("T")


class UnknownChild(ShoalError):
    """There is no child of that name. Attributes: `name`, `known`."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no child process is named {name!r}; there are {', '.join(known) or 'none'}")
        self.name = name
        self.known = tuple(known)


class DuplicateChild(ShoalError):
    """A child of that name was started already. Attribute: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a child process named {name!r} was started already; stop it first or choose another name")
        self.name = name


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """A command to keep running."""

    name: str  # names its log file too
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # added to the supervisor's
    cwd: Path | None = None
    nice: int = 0
    restart: bool = True  # whether an unasked end is followed by another start


@dataclass(frozen=True, kw_only=True)
class ChildExited:
    """A child ended unasked."""

    name: str
    code: int  # negative: the signal that killed it
    last_lines: tuple[str, ...]  # of this run's log
    restart_in: float | None  # seconds; None: it stays down
    crash_loop: bool  # it keeps failing soon after its start

    def __str__(self) -> str:
        """One line for a user."""
        then = "stays down" if self.restart_in is None else f"starts again in {self.restart_in:.1f} s"
        often = "fails again and again, " if self.crash_loop else ""
        return f"{self.name}: {often}{processes.describe_exit(self.code)}, {then}"


@dataclass(frozen=True, kw_only=True)
class ChildRestarted:
    """A child runs again after an unasked end."""

    name: str
    pid: int
    attempt: int  # 1 for the first since it was last healthy
    down_s: float  # seconds without it


class Server(Protocol):
    """What the supervisor must know of the server: how to stop it, after everyone else."""

    async def stop(self) -> None:
        """Ends it; no-op if it isn't running."""


@dataclass
class _Child:
    spec: ChildSpec
    history: RestartHistory
    process: Process | None = None
    started: float = 0.0
    log_start: int = 0  # where this run's lines begin in its log file
    tender: asyncio.Task[None] | None = None


class Supervisor:
    """Keeps child processes running. All of them die with this process, whatever ends it.

    Their output goes to `<store>/logs/<name>.log`, so that this process's own stays clean.
    """

    def __init__(
        self,
        store: Path,
        *,
        server: Server | None = None,
        policy: RestartPolicy | None = None,
        grace: float = GRACE,
        on_exit: Callable[[ChildExited], None] | None = None,
        on_restart: Callable[[ChildRestarted], None] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            store: Shoal's directory.
            server: stopped after the last child has ended.
            policy: of restarts.
            grace: seconds that children have to end in good order.
            on_exit: told of an unasked end.
            on_restart: told when that child runs again.
        """
        self.store = store
        self.signalled: signal.Signals | None = None  # the signal that ended `run`
        self._server = server
        self._policy = policy or RestartPolicy()
        self._grace = grace
        self._on_exit = on_exit
        self._on_restart = on_restart
        self._children: dict[str, _Child] = {}
        self._hurry = asyncio.Event()  # a second signal: no more waiting
        self._stopping = False

    async def start(self, spec: ChildSpec) -> int:
        """Starts a child and watches over it from now on. Returns its process id.

        Raises:
            DuplicateChild: one of that name is being watched over.
            OSError: the command can't be started.
        """
        if spec.name in self._children:
            raise DuplicateChild(spec.name)
        child = _Child(spec, RestartHistory(self._policy))
        self._children[spec.name] = child
        try:
            return await self._begin(child)
        except BaseException:
            del self._children[spec.name]
            raise

    async def stop(self, name: str) -> int | None:
        """Ends a child in good order and forgets it. Returns its exit code, None if it wasn't running."""
        child = self._child(name)
        code = await self._end(child, signal.SIGTERM)
        del self._children[name]
        return code

    async def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> int | None:
        """Sends `sig`, waits for the end, and leaves the child down until `resume`: a machine lost, for a drill.

        To see it come back by itself, send the signal to `pid(name)`.
        """
        return await self._end(self._child(name), sig)

    async def resume(self, name: str) -> int:
        """Starts a child again that `kill` put down. Returns its process id; that of the running one if it is up."""
        child = self._child(name)
        if child.process is not None and child.process.returncode is None:
            return child.process.pid
        await _cancelled(child.tender)
        return await self._begin(child)

    def pid(self, name: str) -> int | None:
        """The child's process id; None while it is down."""
        process = self._child(name).process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def names(self) -> tuple[str, ...]:
        """Every child's name, also of those that are down, in the order of their start."""
        return tuple(self._children)

    def log_path(self, name: str) -> Path:
        """Where a child's output goes."""
        return self.store / "logs" / f"{name}.log"

    async def drain(self) -> None:
        """Ends everything: SIGTERM to all children, SIGKILL to those still there after `grace` seconds, then the server."""
        self._stopping = True
        for child in self._children.values():
            await _cancelled(child.tender)
        running = [child.process for child in self._children.values() if child.process is not None]
        for process in running:
            processes.send(process, signal.SIGTERM)
        gone = asyncio.gather(*(process.wait() for process in running))
        await _first(gone, self._hurry, timeout=self._grace)
        if not gone.done():
            for process in running:
                processes.kill(process)
        await gone
        if self._server is not None:
            await self._server.stop()

    async def run(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Runs `work` until it returns or SIGINT, SIGTERM or SIGHUP comes, which cancels it; then drains in any case.

        The same signal again (an impatient Ctrl-C) makes the drain a SIGKILL. `signalled` says afterwards which came first.

        Returns:
            What `work` returned; None if a signal cancelled it.
        """
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        numbers = _signals()
        told_to_end = asyncio.Event()

        def on_signal(number: signal.Signals) -> None:
            if self.signalled is None:
                self.signalled = number
                self._stopping = True
                told_to_end.set()
            elif self.signalled is number:
                self._hurry.set()

        for number in numbers:
            _listen(loop, number, on_signal)
        try:
            await _first(task, told_to_end)
            if not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=WORK_GRACE)
            if self.signalled is not None and (task.cancelled() or not task.done()):
                return None
            return await task
        finally:
            task.cancel()
            await self.drain()
            for number in numbers:
                _ignore(loop, number)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()

    def _child(self, name: str) -> _Child:
        if name not in self._children:
            raise UnknownChild(name, self.names)
        return self._children[name]

    async def _begin(self, child: _Child) -> int:
        child.process = await self._spawn(child)
        child.tender = asyncio.create_task(self._tend(child), name=f"supervise {child.spec.name}")
        return child.process.pid

    async def _spawn(self, child: _Child) -> Process:
        spec = child.spec
        with open_log(self.log_path(spec.name)) as log:
            child.log_start = log.seek(0, os.SEEK_END)
            child.started = time.monotonic()
            return await processes.spawn(spec.argv, env=spec.env, cwd=spec.cwd, nice=spec.nice, stdout=log, stderr=log)

    async def _end(self, child: _Child, sig: signal.Signals) -> int | None:
        await _cancelled(child.tender)
        process = child.process
        if process is None or process.returncode is not None:
            return None
        if sig == signal.SIGKILL:
            return await processes.end_now(process)
        return await processes.end(process, self._grace, sig)

    async def _tend(self, child: _Child) -> None:
        """Starts the child again whenever it ends; runs until cancelled, or until it ends if it isn't to be restarted."""
        assert child.process is not None
        while not self._stopping:
            code = await child.process.wait()
            down_since = time.monotonic()
            lines = last_lines(self.log_path(child.spec.name), since=child.log_start)
            attempt = await self._wait_turn(child, code, lines)
            while attempt is not None and not self._stopping:
                try:
                    child.process = await self._spawn(child)
                    break
                except OSError as error:
                    attempt = await self._wait_turn(child, _SPAWN_FAILED, (str(error),))
            if attempt is None or self._stopping:
                return
            if self._on_restart is not None:
                down = time.monotonic() - down_since
                self._on_restart(ChildRestarted(name=child.spec.name, pid=child.process.pid, attempt=attempt, down_s=down))

    async def _wait_turn(self, child: _Child, code: int, lines: tuple[str, ...]) -> int | None:
        """Reports an exit and waits as long as the policy says. Returns the attempt's number, None to leave it down."""
        again = child.history.exited(started=child.started, now=time.monotonic())
        delay = again.delay if child.spec.restart else None
        if self._on_exit is not None and not self._stopping:
            self._on_exit(
                ChildExited(
                    name=child.spec.name, code=code, last_lines=lines, restart_in=delay, crash_loop=again.crash_loop
                )
            )
        if delay is None:
            return None
        await asyncio.sleep(delay)
        return again.attempt


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def _first(work: asyncio.Future[T], event: asyncio.Event, timeout: float | None = None) -> None:
    """Returns when `work` is done, `event` is set, or `timeout` seconds have passed; cancels neither."""
    waiter = asyncio.ensure_future(event.wait())
    both: set[asyncio.Future[Any]] = {work, waiter}
    try:
        await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()


def _signals() -> tuple[signal.Signals, ...]:
    """The signals that mean the end. SIGHUP (the terminal is gone) only if nobody asked to ignore it, as nohup does."""
    if sys.platform == "win32":
        return (signal.SIGINT, signal.SIGTERM)
    hangup = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL else ()
    return (signal.SIGINT, signal.SIGTERM, *hangup)


def _listen(loop: asyncio.AbstractEventLoop, number: signal.Signals, heed: Callable[[signal.Signals], None]) -> None:
    if sys.platform == "win32":
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(heed, number))
    else:
        loop.add_signal_handler(number, heed, number)


def _ignore(loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
    if sys.platform == "win32":
        signal.signal(number, signal.SIG_DFL)
    else:
        loop.remove_signal_handler(number)

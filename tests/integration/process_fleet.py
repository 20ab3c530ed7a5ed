"""A fleet as a user runs it: `shoal up` and `shoal node` as processes, in a directory of their own."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import psutil

from bus import processes

SHOAL = Path(sys.executable).with_name("shoal")
APPS = Path(__file__).with_name("apps")
PATIENCE = 100.0  # seconds; only a failing test waits this long. Python and torch start slowly on a crowded machine.
END_WITHIN = 10.0  # seconds: what users are promised
OWN_VARIABLES = ("SHOAL_SERVER", "SHOAL_TOKEN")


def variables(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would lead to another fleet."""
    return {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES} | dict(extra or {})


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as long as their parents live."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def left_over(pids: Sequence[int], timeout: float = PATIENCE) -> list[int]:
    """Which of these processes are still there after at most `timeout` seconds."""
    until = time.monotonic() + timeout
    return [pid for pid in pids if not processes.wait_gone(pid, max(0.0, until - time.monotonic()))]


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its standard output."""
        return msgspec.json.decode(self.out)


class Program:
    """A `shoal` command in a session of its own; what it prints to standard error goes to a file."""

    def __init__(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, before: Sequence[str] = ()
    ) -> None:
        me = os.getpid()
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*before, str(SHOAL), *arguments],
                cwd=cwd,
                env=variables(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=lambda: processes.die_with_parent(me),  # noqa: PLW1509 - no threads hold locks here
            )
        self.pid = self.process.pid
        self._pending = b""

    def line(self, timeout: float = PATIENCE) -> str:
        """The next line of standard output; empty at its end."""
        assert self.process.stdout is not None
        until = time.monotonic() + timeout
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._pending:
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"no line within {timeout} s; standard error: {self.log.read_text()}")
            data = os.read(descriptor, 65536)
            if not data:
                rest, self._pending = self._pending, b""
                return rest.decode()
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def send(self, sig: signal.Signals) -> None:
        """A signal to this process alone."""
        self.process.send_signal(sig)

    def ended(self, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout)

    def close(self) -> None:
        """End it for certain, and whatever descends from it."""
        known = family(self.pid)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_WITHIN)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in left_over(known, 5.0):
            os.kill(pid, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()


class ProcessFleet:
    """`shoal up` in `home`, its nodes beside it."""

    def __init__(self, home: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.home = home
        self.cwd = cwd or home
        self.env = dict(env or {})
        self.started = 0
        self.nodes: dict[str, Program] = {}
        self.upper: Program | None = None
        self.url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for program in [*self.nodes.values(), *([self.upper] if self.upper else [])]:
            program.close()

    @property
    def store(self) -> Path:
        """Where `shoal up` keeps what it keeps."""
        return self.home / ".shoal"

    def start(self, *arguments: str) -> Program:
        """A command on this fleet's store, left running."""
        self.started += 1
        log = self.home / "logs" / f"{self.started}-{arguments[0]}.log"
        return Program([*arguments, "--store", str(self.store)], cwd=self.cwd, env=self.env, log=log)

    def up(self, *arguments: str) -> Program:
        """`shoal up`, ready."""
        self.upper = self.start("up", *arguments)
        line = self.upper.line()
        assert line.startswith("ready nats://"), line
        self.url = line.removeprefix("ready ")
        return self.upper

    def node(self, name: str, *arguments: str) -> Program:
        """`shoal node`; it is there once the bus says so."""
        log = self.home / "logs" / f"node-{name}.log"
        whole = ["node", "--name", name, "--app-dir", str(APPS), *arguments]
        self.nodes[name] = Program(whole, cwd=self.home, env=self.env, log=log)
        return self.nodes[name]

    def agent(self, name: str) -> int:
        """The process id of an agent under `shoal up`."""
        assert self.upper is not None
        return only(self.upper.pid, "runners.agent_process", name)

    def server(self) -> int:
        """The process id of its nats-server."""
        assert self.upper is not None
        return only(self.upper.pid, "nats-server")

    def job(self, node: str) -> int:
        """The process id of the newest job's process on a node: one of a job before may still be on its way out."""
        return max(self.working(node), key=lambda pid: float(psutil.Process(pid).create_time()))

    def working(self, node: str) -> list[int]:
        """The process ids of all jobs' processes on a node, which are forks of one server."""
        under = psutil.Process(self.nodes[node].pid).children(recursive=True)
        return [child.pid for child in under if "runners.fork_server" in child.parent().cmdline()]

    async def cli(self, *arguments: str, cwd: Path | None = None) -> Said:
        """A command, to its end."""
        process = await asyncio.create_subprocess_exec(
            SHOAL, *arguments, cwd=cwd or self.home, env=variables(self.env), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())


def only(parent: int, *words: str) -> int:
    """The one child of a process whose command line holds all these words."""
    found = []
    for child in psutil.Process(parent).children():
        command = child.cmdline()
        if all(any(word in part for part in command) for word in words):
            found.append(child.pid)
    assert len(found) == 1, f"{words} under {parent}: {found}"
    return found[0]

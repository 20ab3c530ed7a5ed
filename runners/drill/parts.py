"""Which processes are this fleet's: those that hold the locks of its store, and what descends from them. No others."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bus.locks import FileLock

SERVER = "nats-server"
_JOB_PROCESSES = ("runners.fork_server", "runners.jobs.training")
_LEADS = re.compile(r"replica (\d+) leads, incarnation (\d+)")
_TAIL = 64 * 1024  # bytes of a log in which a replica's last words on who leads are looked for


@dataclass(frozen=True)
class NodeParts:
    """A node on this machine."""

    process: psutil.Process
    watched: bool
    """`shoal up` starts it again when it ends."""


@dataclass
class Parts:
    """The processes of one store, as they are now.

    Attributes:
        up: `shoal up`; None where none runs.
        server: its nats-server; of several the first.
        agents: by name, then by the replica's number (0: it has no standby).
        nodes: by name.
    """

    store: Path
    up: psutil.Process | None = None
    server: psutil.Process | None = None
    agents: dict[str, dict[int, psutil.Process]] = field(default_factory=dict)
    nodes: dict[str, NodeParts] = field(default_factory=dict)

    def leader(self, agent: str) -> tuple[int, psutil.Process] | None:
        """The replica that leads, or the agent's only process; None where it is down."""
        replicas = self.agents.get(agent, {})
        if len(replicas) <= 1:
            return next(iter(replicas.items()), None)
        number = _leading(self.store, agent, sorted(replicas))
        return (number, replicas[number]) if number in replicas else None

    def job_process(self, node: str) -> psutil.Process | None:
        """The newest job's process on a node: one of a job before may still be on its way out."""
        if node not in self.nodes:
            return None
        found = [child for child in _children(self.nodes[node].process, recursive=True) if _is_job_process(child)]
        return max(found, key=lambda process: float(process.create_time()), default=None)


def find_parts(store: Path) -> Parts:
    """Look at a store's locks, and below who holds them."""
    store = store.resolve()
    # Of one server, or of several that `shoal up` keeps together.
    locks = [store / "server.lock", *sorted((store / "servers").glob("*.lock"))]
    parts = Parts(store, up=next((holder for holder in map(_holder, locks) if holder is not None), None))
    children = _children(parts.up) if parts.up is not None else []
    servers = (child for child in children if SERVER in Path((_command(child) or [""])[0]).name)
    parts.server = next(servers, None)
    for path in sorted((store / "agents").glob("*/lock")):
        process = _holder(path)
        if process is not None and process in children:  # of an agent apart nobody is sure to start another
            name = path.parent.name.partition("@")[0]
            parts.agents.setdefault(name, {})[_replica(_command(process))] = process
    for path in sorted((store / "nodes").glob("*.lock")):
        process = _holder(path)
        if process is not None:
            parts.nodes[path.stem] = NodeParts(process, watched=process in children)
    return parts


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The process of this number that began then; None where it has ended, whoever has its number now."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 0.01:
            return process
    return None


def _holder(path: Path) -> psutil.Process | None:
    """Who holds a lock. A process that began after the number was noted is another one that got the same."""
    holder = FileLock(path).holder()
    with contextlib.suppress(psutil.Error, OSError):
        if holder is not None:
            process = psutil.Process(holder)
            mine = os.name != "posix" or process.uids().effective == os.geteuid()
            if mine and process.create_time() <= path.stat().st_mtime and process.status() != psutil.STATUS_ZOMBIE:
                return process
    return None


def _children(process: psutil.Process, *, recursive: bool = False) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [child for child in process.children(recursive=recursive) if child.status() != psutil.STATUS_ZOMBIE]
    return []


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def _replica(command: list[str]) -> int:
    return int(command[command.index("--replica") + 1]) if "--replica" in command else 0


def _is_job_process(process: psutil.Process) -> bool:
    """A fork of the fork server, or a process of its own where there is no forking; not the fork server itself."""
    command = _command(process)
    if _JOB_PROCESSES[1] in command:
        return True
    with contextlib.suppress(psutil.Error):
        parent = process.parent()
        return _JOB_PROCESSES[0] in command and parent is not None and _JOB_PROCESSES[0] in _command(parent)
    return False


def _leading(store: Path, agent: str, numbers: list[int]) -> int | None:
    """Of several replicas the one that has led last, by what each has printed."""
    words = [(incarnation, number) for mine in numbers for number, incarnation in _leads(store, agent, mine)]
    return max(words, default=(0, None))[1]


def _leads(store: Path, agent: str, replica: int) -> Iterator[tuple[int, int]]:
    log = store / "logs" / f"{agent if replica < 2 else f'{agent}@{replica}'}.log"
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        for number, incarnation in _LEADS.findall(file.read().decode(errors="replace")):
            yield int(number), int(incarnation)

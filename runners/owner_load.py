"""How much of this machine programs use that aren't Shoal's: what its owner needs it for.

The CPU time of the machine, as the kernel counts it, less that of Shoal's own processes. Those are the programs of a fleet
(node, agents, server, commands) and all that descends from one; how they were started doesn't matter.
"""

import math
import os
import time
from collections.abc import Iterable, Mapping

import msgspec
import psutil  # type: ignore[import-untyped]

PROGRAMS = ("runners.node_process", "runners.agent_process", "runners.fork_server", "runners.jobs.training", "bus.shaping")
# Seconds in which a process may still become another program: a shell is soon the command that it was started for.
YOUNG = 60.0
COMMANDS = ("shoal", "nats-server")


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted up to one moment, in CPU seconds of all cores together."""

    busy: float
    total: float
    """Busy or not."""
    own: dict[int, float]
    """Of Shoal's processes, by process id."""


def percent_of_others(before: Look, after: Look) -> float | None:
    """What others used between two looks, in percent of all cores; None where no time went by.

    A process that ended in between counts as another's with what it used since the first look: who judges by this waits
    for more than one look.
    """
    total = after.total - before.total
    if total <= 0:
        return None
    # The id of a process that ended may be another's now, which has used less.
    own = sum(max(0.0, used - before.own.get(pid, 0.0)) for pid, used in after.own.items())
    return min(max(100.0 * (after.busy - before.busy - own) / total, 0.0), 100.0)


class OwnerLoad:
    """Looks at all processes of this machine: of those that have existed for a while only at what Shoal's own use."""

    def __init__(self, me: int | None = None) -> None:
        """`me`: the process that is Shoal's by definition, by default this one."""
        self._me = os.getpid() if me is None else me
        self._before: Look | None = None
        self._settled: dict[psutil.Process, tuple[bool, int]] = {}
        """Whether a process runs one of Shoal's programs, and its parent, of those that have existed for a while."""
        self.own: frozenset[int] = frozenset()
        """Shoal's processes at the last look."""

    def percent(self) -> float | None:
        """As `percent_of_others` since the last call; None at the first."""
        after = self.look()
        before, self._before = self._before, after
        return None if before is None else percent_of_others(before, after)

    def look(self) -> Look:
        """What is counted up to now."""
        processes = list(psutil.process_iter())
        known = {p: self._settled.get(p) or (_is_shoals(p), _parent(p)) for p in processes}
        born_before = time.time() - YOUNG
        self._settled = {p: facts for p, facts in known.items() if _born(p) < born_before}
        roots = {self._me, *(p.pid for p, (shoals, _) in known.items() if shoals)}
        self.own = frozenset(descendants(roots, {p.pid: parent for p, (_, parent) in known.items()}))
        used = {p.pid: _cpu_seconds(p) for p in processes if p.pid in self.own}
        times = psutil.cpu_times()
        # Time as a guest is part of `user` already; what another machine on the same host took is nobody's here.
        total = sum(times) - sum(getattr(times, name, 0.0) for name in ("guest", "guest_nice"))
        idle = sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "steal"))
        return Look(busy=total - idle, total=total, own=used)


def descendants(roots: Iterable[int], parents: Mapping[int, int]) -> set[int]:
    """The roots that are there and everybody who descends from one; `parents` by process id."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = [root for root in roots if root in parents]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def _is_shoals(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    # The program, and the script that an interpreter was given.
    names = {os.path.basename(part) for part in command[:2]}
    return bool(names & set(COMMANDS)) or any(program in command for program in PROGRAMS)


def _parent(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return 0


def _born(process: psutil.Process) -> float:
    try:
        return float(process.create_time())
    except psutil.Error:
        return math.inf


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)

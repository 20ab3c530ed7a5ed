"""Which processes used the processors during a run: four machines and their server share the few that are here."""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.netlab import NetLab
from benchmarks.training.tasks import WORKERS

TICK = os.sysconf("SC_CLK_TCK")  # of the kernel's accounts, a second
KINDS = (
    ("runners.fork_server", "job"),
    ("nats-server", "nats-server"),
    ("agent_process", ""),
    ("desk", "desk"),
    ("node", "node"),
)
"""What a command line has in it, and what its process is called here; agents by their names."""
BUSY = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def processor_seconds(lab: NetLab) -> Counter[str]:
    """Seconds of a processor used so far by each kind of process in a laboratory; `machine` is all that used one,
    interrupts included, and `stolen` what the host gave to others."""
    found: Counter[str] = Counter()
    for node in range(WORKERS + 1):
        for pid in lab.processes(node):
            with contextlib.suppress(OSError):
                found[_kind(Path(f"/proc/{pid}/cmdline").read_bytes().decode())] += _used(
                    Path(f"/proc/{pid}/stat").read_text()
                )
    if (router := lab.router_pid) is not None:
        found["router"] += _used(Path(f"/proc/{router}/stat").read_text())
    whole = dict(zip(BUSY, map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]), strict=False))
    found["stolen"] = whole.pop("steal", 0) / TICK
    found["machine"] = sum(ticks for name, ticks in whole.items() if name not in ("idle", "iowait")) / TICK
    return found


def _kind(command: str) -> str:
    words = command.split("\0")
    for mark, kind in KINDS:
        if any(mark in word for word in words):
            return kind or words[words.index("runners.agent_process") + 1]
    return "other"


def _used(stat: str) -> float:
    """Of a line of /proc/PID/stat: user's and system's time, children that ended included."""
    return sum(map(int, stat.rpartition(")")[2].split()[11:15])) / TICK


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was used between two calls; processes that ended in between are missing."""
    return {kind: round(seconds - before.get(kind, 0.0), 2) for kind, seconds in sorted(after.items())}

"""What Shoal costs while nothing is to be done: seconds until it is ready, CPU, memory.

    python -m benchmarks.idle [--json] [--starts 5] [--nodes 5] [--seconds 60]

Real processes, nothing emulated. `ready`: from the start of `shoal up` to its line on standard output, each time on an
empty store. CPU: user and system time of every process over `--seconds`, with all nodes beating and probing once a second.
Memory: resident (RSS, which counts shared libraries in each process) and its own (USS), after that time; that of a job's
process once a round of `examples.stdlib_lm` is closed.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from runners.client import Client, connect
from runners.loop import run
from schemas.jobs import JobState
from schemas.nodes import NodeHeartbeat
from schemas.training import RoundClosed

ROOT = Path(__file__).resolve().parents[1]
SHOAL = "import sys; from runners.cli import main; sys.argv[0] = 'shoal'; main()"
NODES_WITHIN = 120.0  # seconds for all nodes to beat, however busy the machine is
ROUND_WITHIN = 300.0  # seconds for a job to be accepted, loaded and trained for one round
ENDED_WITHIN = 30.0  # seconds; ten are promised, and a busy machine takes longer
SETTLE = 5.0  # seconds after the last node's first beat: first profiles, grades and rows are written by then
MODULES = {"runners.node_process": "node", "runners.fork_server": "job process"}
AGENT = "runners.agent_process"
APART = ("node", "shoal up", "job process")  # not among "agents and nats-server"


@dataclass(frozen=True)
class Row:
    """One process over the idle time."""

    process: str
    cpu_percent: float | None
    """Of one core; None for a process that was not idle."""
    rss_mb: float
    uss_mb: float


@contextlib.contextmanager
def brought_up(nodes: int) -> Iterator[tuple[psutil.Process, str, float]]:
    """A running `shoal up`: its process, the server's address, seconds until it was ready."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as store:
        begun = time.perf_counter()
        command = [sys.executable, "-c", SHOAL, "up", "--store", store, "--nodes", str(nodes)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                seconds = time.perf_counter() - begun
                if not line.startswith("ready "):
                    raise SystemExit(f"`shoal up` said {line!r} and not that it is ready")
                yield psutil.Process(process.pid), line.split()[1], seconds
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(ENDED_WITHIN)


def name_of(process: psutil.Process) -> str:
    """`recorder`, `node`, `job process`, `nats-server`."""
    words = process.cmdline()
    if AGENT in words:
        return str(words[words.index(AGENT) + 1])
    return next((name for module, name in MODULES.items() if module in words), str(process.name()))


def named(parent: psutil.Process) -> dict[psutil.Process, str]:
    """All processes under `shoal up`, and itself."""
    return {process: name_of(process) for process in parent.children(recursive=True)} | {parent: "shoal up"}


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time."""
    times = process.cpu_times()
    return float(times.user + times.system)


def rows(processes: dict[psutil.Process, str], before: dict[psutil.Process, float], seconds: float) -> list[Row]:
    """What each used since."""
    made = []
    for process, name in processes.items():
        memory = process.memory_full_info()
        share = (cpu_seconds(process) - before[process]) / seconds * 100
        made.append(Row(name, share, memory.rss / 1e6, memory.uss / 1e6))
    return sorted(made, key=lambda row: (row.process == "node", row.process))


async def all_beat(client: Client, nodes: int) -> None:
    """Returns when so many nodes have said that they live."""
    seen: set[str] = set()
    async with asyncio.timeout(NODES_WITHIN):
        async for event in client.events("shoal.nodes.*.heartbeat"):
            if isinstance(event, NodeHeartbeat):
                seen.add(event.node)
            if len(seen) == nodes:
                return


async def one_round(client: Client) -> None:
    """Train until a round is closed, so that a job's process has all that it needs in memory."""
    accepted = await client.submit(
        {"kind": "train", "workload": "examples.stdlib_lm:workload", "rounds": 1000, "min_nodes": 1}
    )
    async with asyncio.timeout(ROUND_WITHIN):
        async for event in client.events(f"shoal.training.{accepted.job}.>", f"shoal.jobs.{accepted.job}.state"):
            if isinstance(event, RoundClosed):
                return
            if isinstance(event, JobState) and event.state.ended:
                raise SystemExit(f"the job {event.state.value}: {event.reason}")


async def measure_idle(parent: psutil.Process, url: str, nodes: int, seconds: float) -> list[Row]:
    """CPU and memory of every process while the fleet is idle; memory of a job's process afterwards."""
    async with await connect(url, name="benchmark") as client:
        await all_beat(client, nodes)
        await asyncio.sleep(SETTLE)
        # Without a subscriber of ours: an idle fleet has none.
    processes = named(parent)
    before, begun = {process: cpu_seconds(process) for process in processes}, time.perf_counter()
    await asyncio.sleep(seconds)
    found = rows(processes, before, time.perf_counter() - begun)
    async with await connect(url, name="benchmark") as client:
        await one_round(client)
        for process, name in named(parent).items():
            if name == "job process":
                memory = process.memory_full_info()
                found.append(Row(name, None, memory.rss / 1e6, memory.uss / 1e6))
    return found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--starts", type=int, default=5, help="of `shoal up`, for the time until it is ready")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of idleness")
    arguments = parser.parse_args()
    starts = []
    for _ in range(arguments.starts):
        with brought_up(0) as (_, _, seconds):
            starts.append(seconds)
    with brought_up(arguments.nodes) as (parent, url, _):
        found = run(measure_idle(parent, url, arguments.nodes, arguments.seconds))
    idle = sum(row.cpu_percent or 0.0 for row in found if row.process not in APART)
    if arguments.json:
        about = {"machine": platform.machine(), "python": platform.python_version(), "cpus": psutil.cpu_count()}
        figures = {"ready_seconds": starts, "agents_and_server_cpu_percent": idle, "seconds": arguments.seconds}
        print(json.dumps(about | figures | {"processes": [asdict(row) for row in found]}, indent=2))
        return
    print_table(starts, found, idle, arguments.seconds)


def print_table(starts: list[float], found: list[Row], idle: float, seconds: float) -> None:
    """For people."""
    if starts:
        spread = f"{min(starts):.2f} to {max(starts):.2f} s in {len(starts)} starts"
        print(f"ready after {statistics.median(starts):.2f} s ({spread})")
    print(f"\n{'process':<18} {'CPU of a core':>14} {'RSS':>9} {'USS':>9}   idle for {seconds:.0f} s")
    for row in found:
        share = "" if row.cpu_percent is None else f"{row.cpu_percent:.2f} %"
        print(f"{row.process:<18} {share:>14} {row.rss_mb:>6.0f} MB {row.uss_mb:>6.0f} MB")
    print(f"\nagents and nats-server together: {idle:.2f} % of one core")


if __name__ == "__main__":
    main()

"""What a large fleet's heartbeats cost its agents on a real nats-server, and how soon they decide meanwhile.

    python -m benchmarks.large_fleet [--json] [--nodes 10000] [--seconds 30]

A nats-server, the processes of the node selector, the failure detector and the network monitor, with their journals, and
this process, which speaks for all nodes: a heartbeat a second and a probe every ten from each. First all are made known;
then, for `--seconds`, CPU time (user and system) of each agent's process is counted and set against the heartbeats that
were sent. `share` is what the agent would take of a core at one heartbeat a second from each node: that says the same on a
machine that is too busy to send them as fast, though an agent that gets more at a time spends less on each.

Meanwhile ten new nodes a second appear. `decided`: from the sending of a newcomer's first heartbeat until `NodeJoined` of
the selector and `NodeHealth` of the detector are here, and of its fifth probe until the monitor's first grade of its link
is, over the same server; 50th and 99th percentile. `state`: bytes of each agent's snapshot over the nodes. The aims: a
quarter of a core each for 10,000, decisions inside 100 ms at the 99th percentile, under 2 kB of state.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import nats
import psutil  # type: ignore[import-untyped]
from nats.aio.client import Client

from agents.network_monitor import NetworkMonitorSettings
from bus import processes
from bus.nats import NatsBus
from bus.port import Interest
from bus.server import EmbeddedServer
from runners.journal import read_snapshot
from runners.loop import run
from schemas.decisions import NodeJoined
from schemas.health import NodeHealth
from schemas.network import LinkProbed, LinkQualityChanged
from schemas.nodes import NodeHeartbeat
from schemas.wire import Message, encode, seal, subject_of

AGENTS = ("node_selector", "failure_detector", "network_monitor")
DECISIONS = {NodeJoined: "node_selector", NodeHealth: "failure_detector", LinkQualityChanged: "network_monitor"}
TICK = 0.02  # seconds: a fiftieth of the fleet speaks at a time, as nodes that know nothing of each other do
PROBE_EVERY = 10  # heartbeats
NEW_A_SECOND = 10
ENROL_A_SECOND = 1000  # nodes; each is several stored decisions
PATIENCE = 300.0  # seconds for anything, however busy the machine is
LAST = 5.0  # seconds for the last newcomers' decisions to arrive


@dataclass(frozen=True)
class Row:
    """One agent."""

    agent: str
    cpu_us_a_heartbeat: float
    share: float
    """Of a core, at one heartbeat a second from each node."""
    decided_p50_ms: float
    decided_p99_ms: float
    decisions: int
    state_bytes_a_node: float


class Nodes:
    """All nodes, and what was decided of them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.beats = 0
        self.sequence: dict[str, int] = {}
        self.asked: dict[tuple[str, str], float] = {}
        """When a node said what an agent decides on, by agent and node."""
        self.took: dict[str, list[float]] = {agent: [] for agent in AGENTS}
        self.decided: dict[str, set[str]] = {agent: set() for agent in AGENTS}
        self.settled = asyncio.Event()
        """Nothing is asked that was not decided; looked at after each decision."""

    async def beat(self, name: str) -> None:
        """A heartbeat of a node, and a probe with every tenth."""
        number = self.sequence[name] = self.sequence.get(name, 0) + 1
        self.beats += 1
        await self._send(name, number, NodeHeartbeat(node=name, sequence=number, interval=1.0, cpu_percent=40.0))
        if number % PROBE_EVERY == len(name) % PROBE_EVERY:
            await self._send(name, number, LinkProbed(node=name, sequence=number // PROBE_EVERY + 100, rtt_ms=20.0))

    async def appear(self, name: str) -> None:
        """A new node: its first heartbeat, and as many probes as its link's first grade takes."""
        self.asked["node_selector", name] = self.asked["failure_detector", name] = time.perf_counter()
        await self.beat(name)
        for number in range(1, NetworkMonitorSettings().warm_up + 1):
            self.asked["network_monitor", name] = time.perf_counter()
            await self._send(name, number, LinkProbed(node=name, sequence=number, rtt_ms=20.0))

    async def _send(self, name: str, number: int, message: Message) -> None:
        seal(message, id=f"node/{name}:1:{number}", cause="", at=time.time(), source=f"node/{name}")
        await self.client.publish(subject_of(message), encode(message))

    def heard(self, message: Message, receipt: object) -> None:
        """A decision is here; the first one on a node counts."""
        agent, name = DECISIONS[type(message)], getattr(message, "node", "")
        if receipt is not None:
            receipt.ack()  # type: ignore[attr-defined]
        self.decided[agent].add(name)
        asked = self.asked.pop((agent, name), None)
        if asked is not None:
            self.took[agent].append(time.perf_counter() - asked)
        if not self.asked:
            self.settled.set()


async def enrol(nodes: Nodes, names: list[str]) -> None:
    """Make all nodes known."""
    for number, name in enumerate(names):
        await nodes.appear(name)
        if number % (ENROL_A_SECOND // 50) == 0:
            await asyncio.sleep(TICK)
    async with asyncio.timeout(PATIENCE):
        while any(len(known) < len(names) for known in nodes.decided.values()):
            await asyncio.gather(*(nodes.beat(name) for name in names))
            await asyncio.sleep(1.0)
    nodes.asked.clear()
    nodes.took = {agent: [] for agent in AGENTS}


async def speak(nodes: Nodes, names: list[str], seconds: float) -> float:
    """Heartbeats and newcomers for some time, as fast as they are due or as can be; gives the seconds that took."""
    loop, begun = asyncio.get_running_loop(), time.perf_counter()
    groups = round(1.0 / TICK)
    fresh: Iterator[int] = itertools.count()
    due = loop.time()
    for tick in range(round(seconds / TICK)):
        for name in names[tick % groups :: groups]:
            await nodes.beat(name)
        if tick % (groups // NEW_A_SECOND) == 0:
            await nodes.appear(f"new{next(fresh):05d}")
        due += TICK
        await asyncio.sleep(max(0.0, due - loop.time()))
    took = time.perf_counter() - begun
    nodes.settled.clear()
    if nodes.asked:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(nodes.settled.wait(), LAST)
    return took


@contextlib.asynccontextmanager
async def agents(store: Path, url: str) -> AsyncIterator[dict[str, psutil.Process]]:
    """The agents' processes; ended with a snapshot."""
    running = {}
    with (store / "agents.log").open("wb") as out:
        for name in AGENTS:
            argv = (sys.executable, "-m", "runners.agent_process", name, "--server", url, "--store", str(store))
            running[name] = await processes.spawn(argv, stdout=out, stderr=out)
        try:
            yield {name: psutil.Process(process.pid) for name, process in running.items()}
        finally:
            for process in running.values():
                process.terminate()
            await asyncio.gather(*(process.wait() for process in running.values()))


def cpu(process: psutil.Process) -> float:
    """Seconds of user and system time."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(count: int, seconds: float) -> dict[str, object]:
    """One fleet of so many nodes."""
    names = [f"n{number:05d}" for number in range(count)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        (Path(root) / "shoal.toml").write_text(
            f"[node_selector]\nnodes_kept = {2 * count}\n[network_monitor]\nlinks_kept = {2 * count}\noffline_after = 60\n"
        )
        store = Path(root) / ".shoal"
        async with EmbeddedServer(store) as server, agents(store, server.url) as running:
            client, bus = await nats.connect(server.url), await NatsBus.connect(server.url, source="benchmark")
            nodes = Nodes(client)
            await bus.subscribe([Interest(kind) for kind in DECISIONS], nodes.heard)
            await enrol(nodes, names)
            before, had = {name: cpu(process) for name, process in running.items()}, nodes.beats
            took = await speak(nodes, names, seconds)
            used = {name: cpu(process) - before[name] for name, process in running.items()}
            beats, missing = nodes.beats - had, len(nodes.asked)
            await client.close()
            await bus.close()
        rows = [row(name, used[name] / beats, nodes, store, count) for name in AGENTS]
    return {
        "nodes": count,
        "heartbeats_a_second": beats / took,
        "undecided": missing,
        "load": os.getloadavg()[0],
        "agents": [asdict(each) for each in rows],
    }


def row(name: str, each: float, nodes: Nodes, store: Path, count: int) -> Row:
    """One agent's figures, its process having ended."""
    took = sorted(nodes.took[name]) or [float("nan")]
    snapshot = read_snapshot(store / "agents" / name / "snapshot")
    return Row(
        agent=name,
        cpu_us_a_heartbeat=1e6 * each,
        share=each * count,
        decided_p50_ms=1e3 * took[len(took) // 2],
        decided_p99_ms=1e3 * took[min(len(took) - 1, round(0.99 * len(took)))],
        decisions=len(nodes.took[name]),
        state_bytes_a_node=len(snapshot.state) / max(1, len(nodes.sequence)) if snapshot is not None else float("nan"),
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    found = run(measure(arguments.nodes, arguments.seconds))
    if arguments.json:
        about = {"machine": platform.machine(), "python": platform.python_version(), "cpus": psutil.cpu_count()}
        print(json.dumps(about | found, indent=2))
        return
    rows = msgspec.convert(found["agents"], list[Row])
    print(
        f"{arguments.nodes} nodes, {found['heartbeats_a_second']:,.0f} heartbeats a second sent, "
        f"{found['undecided']} decisions on newcomers owed, load {found['load']:.0f}\n"
    )
    print(f"{'':18} {'us a heartbeat':>15} {'of a core':>10} {'decided p50':>12} {'p99':>10} {'state a node':>13}")
    for each in rows:
        print(
            f"{each.agent:18} {each.cpu_us_a_heartbeat:15.1f} {each.share:10.2f} {each.decided_p50_ms:9.0f} ms"
            f" {each.decided_p99_ms:7.0f} ms {each.state_bytes_a_node:11.0f} B"
        )


if __name__ == "__main__":
    main()

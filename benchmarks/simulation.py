"""How fast fleets simulate: events a second with the real cores, with their checks off and on, and memory for each node.

    python -m benchmarks.simulation [--json] [--nodes 50 500 5000] [--seconds 120]
    python -m benchmarks.simulation --region 10000 [--json] [--seconds 60]

Each row is a process of its own on one core: a fleet of so many nodes with a heartbeat and a probe a second each, all
agents, and a training job of 16 nodes, without faults. After a minute of virtual time to settle, `--seconds` more are
measured in ten windows; the rate is that of the median window, the best one beside it, by the process's own CPU time. An
event is anything that happens on the network: a delivery, a timer, the end of a work or of a round trip, a stream's answer.
`carrier` is the network by itself: heartbeats to one receiver that does nothing, encoded and decoded as always.

`--region` is one large fleet on one core, with a heartbeat a second and a probe every ten from each node, a job of the 16
that the selector takes, and one in a hundred nodes gone for ten seconds: how many were registered, monitored, selected,
lost and healed, and how many times faster than real time that was, all of it.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]

from bus.port import Interest
from bus.simulated_endpoint import Endpoint
from bus.simulated_faults import NONE
from bus.simulated_network import SimulatedNetwork
from bus.simulated_streams import Stored
from runners.simulation import World
from runners.simulation.schedule import FaultEvent
from runners.simulation.world import REQUEST
from schemas.decisions import NodeLost
from schemas.nodes import NodeHeartbeat
from schemas.wire import seal

WINDOWS = 10
SETTLE = 60.0  # virtual seconds until all nodes are known and the job's first rounds are closed
CARRIER_EVENTS = 20_000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    what: str
    nodes: int
    events_per_second: float
    """Of CPU time, in the median window."""
    best_window: float
    inputs_per_second: float
    """Inputs of cores, of CPU time."""
    times_real_time: float
    """Virtual seconds in a second of CPU time."""
    bytes_per_node: float
    """Resident memory that the fleet added, over its nodes; at the end, streams and all."""


def resident() -> int:
    """Bytes of this process."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def windows(advance: Callable[[], tuple[int, int]]) -> tuple[list[float], float, float]:
    """(events a second in each window, inputs a second over all, CPU seconds)."""
    rates, inputs, total = [], 0, 0.0
    for _ in range(WINDOWS):
        begun = time.process_time()
        events, handled = advance()
        took = time.process_time() - begun
        rates.append(events / took)
        inputs += handled
        total += took
    return rates, inputs / total, total


def fleet(nodes: int, check: int, seconds: float) -> Row:
    """A fleet with the real cores."""
    before = resident()
    world = World(7, nodes, 1.0, NONE, check=check, trace=False)
    world.begin()
    world.advance(SETTLE)

    def advance() -> tuple[int, int]:
        events, inputs = world.network.events, world.fleet.inputs
        world.advance(seconds / WINDOWS)
        return world.network.events - events, world.fleet.inputs - inputs

    rates, inputs, total = windows(advance)
    return Row(
        what="cores, checks on" if check else "cores, checks off",
        nodes=nodes,
        events_per_second=statistics.median(rates),
        best_window=max(rates),
        inputs_per_second=inputs,
        times_real_time=seconds / total,
        bytes_per_node=(resident() - before) / nodes,
    )


def carrier(nodes: int) -> Row:
    """The network by itself."""
    before = resident()
    network = SimulatedNetwork(7, NONE, trace=False)
    heard = 0

    def hear(message: object, receipt: object) -> None:
        nonlocal heard
        heard += 1

    network.subscribe(Endpoint("to", 0.001, 0.0), [Interest(NodeHeartbeat)], hear)
    endpoints = [Endpoint(f"n{number}", 0.01, 0.001) for number in range(nodes)]
    sent = 0

    def beat(which: int) -> None:
        nonlocal sent
        sent += 1
        message = NodeHeartbeat(node=f"n{which}", sequence=sent, interval=1.0)
        seal(message, id=f"n{which}:1:{sent}", cause="", at=network.now, source=f"node/n{which}")
        network.publish(endpoints[which], message)
        network.at(network.now + 1.0, beat, which)

    for which in range(nodes):
        network.at(which / nodes, beat, which)
    seconds = CARRIER_EVENTS / (2 * nodes)

    def advance() -> tuple[int, int]:
        events, had = network.events, heard
        network.run(network.now + seconds)
        return network.events - events, heard - had

    rates, inputs, total = windows(advance)
    return Row(
        what="carrier",
        nodes=nodes,
        events_per_second=statistics.median(rates),
        best_window=max(rates),
        inputs_per_second=inputs,
        times_real_time=WINDOWS * seconds / total,
        bytes_per_node=(resident() - before) / nodes,
    )


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """One large fleet."""

    nodes: int
    registered: int
    """Nodes that the selector knew to be alive before any was lost."""
    monitored: int
    """Links with a grade."""
    selected: int
    """Nodes in the job's roster."""
    lost: int
    """Nodes that were found dead; as many had been killed as `killed` says."""
    killed: int
    healed: int
    """Of those, alive again at the end."""
    times_real_time: float
    """Virtual seconds in a second of CPU time, from the first node's start to the end."""
    events_per_second: float
    cpu_seconds_per_node: float
    bytes_per_node: float
    """Resident memory that the fleet added, over its nodes; at the end, streams and all."""
    state_bytes_per_node: dict[str, float]
    """Of each agent's state, as its snapshot has it, over the nodes."""
    largest_message: int
    """Bytes of the largest message that a stream stored; a server takes 1 MiB."""


def region(nodes: int, seconds: float) -> Region:
    """A large fleet from its start on."""
    before, down = resident(), 10.0
    names = [f"n{number:05d}" for number in range(nodes)]
    killed = names[::100]
    crashes = [FaultEvent(at=seconds / 2, kind="crash", who=name, seconds=down) for name in killed]
    settings = {
        "network_monitor": {"offline_after": 35.0},
        "node": {"sample_every": 30},
        "node_selector": {"nodes_kept": 2 * nodes},
    }
    world = World(
        7,
        names,
        1.0,
        NONE,
        check=0,
        trace=False,
        beat=1.0,
        probe=10.0,
        schedule=crashes,
        settings=settings,
        request=REQUEST,
    )
    lost: set[str] = set()
    largest = 0

    def watch(stored: Stored) -> None:
        nonlocal largest
        largest = max(largest, len(stored.data))
        if stored.wire.type is NodeLost:
            lost.add(stored.wire.decode_bytes(stored.data).node)

    world.network.readers.observers.append(watch)
    begun = time.process_time()
    world.begin()
    world.advance(seconds / 2 - 1.0)
    selector, monitor = (world.fleet.agents[name].agent.state for name in ("node_selector", "network_monitor"))
    registered = sum(record.alive for record in selector.nodes.values())
    world.advance(seconds / 2 + 1.0)
    took = time.process_time() - begun
    jobs = selector.jobs.values()
    return Region(
        nodes=nodes,
        registered=registered,
        monitored=sum(link.quality is not None for link in monitor.links.values()),
        selected=max((len(job.nodes) for job in jobs), default=0),
        lost=len(lost & set(killed)),
        killed=len(killed),
        healed=sum(selector.nodes[name].alive for name in lost & set(killed)),
        times_real_time=seconds / took,
        events_per_second=world.network.events / took,
        cpu_seconds_per_node=took / nodes,
        bytes_per_node=(resident() - before) / nodes,
        state_bytes_per_node={
            name: round(len(msgspec.msgpack.encode(each.agent.state)) / nodes) for name, each in world.fleet.agents.items()
        },
        largest_message=largest,
    )


def measured(job: dict[str, Any]) -> Row:
    """A row, from a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.simulation", "--row", json.dumps(job)]
    done = subprocess.run(argv, capture_output=True, check=True)
    return msgspec.json.decode(done.stdout, type=Row)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--seconds", type=float, default=120.0, help="virtual seconds measured with 50 nodes")
    parser.add_argument("--region", type=int, metavar="N", help="one large fleet, instead")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.region:
        print(msgspec.json.format(msgspec.json.encode(region(options.region, options.seconds)), indent=2).decode())
        return
    if options.row:
        job = json.loads(options.row)
        row = carrier(job["nodes"]) if job["what"] == "carrier" else fleet(job["nodes"], job["check"], job["seconds"])
        sys.stdout.buffer.write(msgspec.json.encode(row))
        return
    rows = [measured({"what": "carrier", "nodes": options.nodes[-1]})]
    for nodes in options.nodes:
        seconds = options.seconds * min(1.0, 50 / nodes)
        for check in (0, 1) if nodes <= 50 else (0,):
            rows.append(measured({"what": "cores", "nodes": nodes, "check": check, "seconds": seconds}))
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return
    print(f"{'':18} {'nodes':>6} {'events/s':>10} {'best':>10} {'inputs/s':>10} {'x real time':>12} {'kB a node':>10}")
    for row in rows:
        print(
            f"{row.what:18} {row.nodes:6d} {row.events_per_second:10,.0f} {row.best_window:10,.0f}"
            f" {row.inputs_per_second:10,.0f} {row.times_real_time:12,.1f} {row.bytes_per_node / 1000:10.1f}"
        )


if __name__ == "__main__":
    main()

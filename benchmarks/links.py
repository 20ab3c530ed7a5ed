"""Tensors over bad links: seconds up and down by the number of connections, packet by packet.

    sudo python -m benchmarks.links [--links average,poor] [--cc cubic] [--mb 1.07] [--streams 1,8,32] [--rounds 7]
        [--unasked] [--json]

Three network namespaces: the server, a node next to it, and one behind the link (`benchmarks/netlab`). `up`: from the first
byte until the near node has the tensor whole; `down`: the same the other way, as followers of a stream. Megabytes are
what went over the link that way, with headers and what was sent again. Floor: the bytes by the rate. `--unasked`: as where
no process may choose BBR for its connections.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from benchmarks.netlab import PROFILES, NetLab, address_of
from benchmarks.netlab.lab import Congestion
from bus.server import EmbeddedServer
from bus.tensors import TensorBus

FAR, NEAR, SERVER = range(3)
NAMES = {FAR: "far", NEAR: "near"}
ASKING = ("bus.tensor_lane.ask_for_bbr", "bus.server.ask_for_child")
TIMEOUT = 600.0  # seconds for one transfer
JOB = "links"


@dataclass(frozen=True)
class Row:
    """One way of travelling; seconds are medians, with the range."""

    link: str
    cc: str
    streams: int
    way: str
    seconds: float
    low: float
    high: float
    floor: float
    sent_mb: float
    """Through the link, in the direction of the tensor, a transfer."""


async def serve() -> None:
    """The server, until the end of the input."""
    with tempfile.TemporaryDirectory() as store:
        async with EmbeddedServer(Path(store), listen=address_of(SERVER), token="links") as server:
            print(server.join_url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


async def take_part(node: str, url: str, streams: int, size: int) -> None:
    """A node: streams a tensor of its own, or waits for the other's, as it is told; says when it had it."""
    other = NAMES[NEAR] if node == NAMES[FAR] else NAMES[FAR]
    bus = await TensorBus.connect(url, job=JOB, node=node, streams=streams)
    await bus.follow(other)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        what, name, digest = line.split()
        if what == "keep":
            print(bus.keep(node, name, os.urandom(size)).digest, flush=True)
        elif what == "send":
            print(time.monotonic(), flush=True)
            await bus.stream(node, name)
            bus.drop(node, name)
        else:
            print("waiting", flush=True)
            await bus.fetch(other, other, name, size, digest, TIMEOUT)
            print(time.monotonic(), flush=True)


class Node:
    """A process of the lab's."""

    def __init__(self, lab: NetLab, node: int, *words: str) -> None:
        argv = [sys.executable, "-m", "benchmarks.links", *words]
        root = Path(__file__).resolve().parents[1]
        self._process = lab.popen(node, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)

    def hear(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def tell(self, line: str) -> str:
        """Its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        """Close its input and wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def transfer(nodes: dict[str, Node], sender: str, name: str) -> float:
    """Seconds for one tensor."""
    receiver = next(other for other in nodes if other != sender)
    digest = nodes[sender].tell(f"keep {name} -")
    nodes[receiver].tell(f"take {name} {digest}")
    begun = float(nodes[sender].tell(f"send {name} -"))
    return float(nodes[receiver].hear()) - begun


def measure(lab: NetLab, url: str, link: str, streams: int, size: int, rounds: int, *unasked: str) -> Iterator[Row]:
    """Both ways over one link; the first transfer of each, with cold connections, doesn't count."""
    lab.set("all", "perfect")
    nodes = {
        NAMES[number]: Node(
            lab, number, *unasked, "--node", NAMES[number], url, str(streams if number == FAR else 1), str(size)
        )
        for number in (FAR, NEAR)
    }
    try:
        for node in nodes.values():
            node.hear()
        lab.set(FAR, link)
        floor = size * 8e-6 / float(str(PROFILES[link]["rate"]))
        for way, sender, counter in (("up", NAMES[FAR], "tx_offered_bytes"), ("down", NAMES[NEAR], "rx_bytes")):
            taken, before = [], 0
            for turn in range(rounds + 1):
                if turn == 1:
                    before = lab.stats()[FAR][counter]
                taken.append(transfer(nodes, sender, f"{way}{turn}"))
            sent = (lab.stats()[FAR][counter] - before) / rounds / 1e6
            found = taken[1:]
            yield Row(
                link, lab.congestion, streams, way, statistics.median(found), min(found), max(found), floor, round(sent, 2)
            )
    finally:
        for node in nodes.values():
            node.end()


def play(role: str, *words: str) -> None:
    """What runs on a node of the lab."""
    if role == "--serve":
        asyncio.run(serve())
    else:
        node, url, streams, size = words
        asyncio.run(take_part(node, url, int(streams), int(size)))


def main() -> None:
    """See the module's docstring."""
    words = sys.argv[1:]
    if words[:2] in (["--unasked", "--serve"], ["--unasked", "--node"]):
        with mock.patch(ASKING[0]), mock.patch(ASKING[1]):
            play(*words[1:])
        return
    if words and words[0] in ("--serve", "--node"):
        play(*words)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", default="average,poor", help=f"of {', '.join(PROFILES)}")
    parser.add_argument("--cc", default="cubic", choices=get_args(Congestion))
    parser.add_argument("--mb", type=float, default=1.07, help="of a tensor")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--unasked", action="store_true", help="no connection asks for BBR")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with NetLab(3, "links", congestion=asked.cc) as lab, contextlib.ExitStack() as stack:
        unasked = ("--unasked",) if asked.unasked else ()
        server = Node(lab, SERVER, *unasked, "--serve")
        stack.callback(server.end)
        url = server.hear()
        for link in asked.links.split(","):
            for number in map(int, asked.streams.split(",")):
                for row in measure(lab, url, link, number, int(asked.mb * 1e6), asked.rounds, *unasked):
                    told(row, as_json=asked.json)


def told(row: Row, *, as_json: bool) -> None:
    """One row."""
    if as_json:
        found: dict[str, Any] = asdict(row)
        print(json.dumps(found), flush=True)
        return
    words = f"{row.link:9} {row.cc:6} {row.streams:3} connections {row.way:5}"
    times = f"{row.seconds:6.2f} s ({row.low:.2f} to {row.high:.2f}), floor {row.floor:.2f}"
    print(f"{words} {times}, {row.sent_mb:.2f} MB", flush=True)


if __name__ == "__main__":
    main()

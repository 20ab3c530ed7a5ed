"""What three servers cost, and how long anybody waits when one of them is killed.

    python -m benchmarks.cluster [--json] [--kills 5]

A single embedded server, and three of `shoal up --cluster 3`, on this machine. `stored/s`: records published with 64
awaited at a time. `awaited`: one after another, median. Then, in turn, the server that leads the stream of records gets
SIGKILL, while a participant stores a record every 20 ms and another hears them on two subscriptions, one durable: `stored
after` and `heard after` are the longest times that one record took, from its publishing to its acknowledgement and to both
subscriptions. The server is started again at once, as always; the next kill comes when all three have the stream again.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bus.cluster import EmbeddedCluster
from bus.nats import NatsBus
from bus.nats_streams import RECORD
from bus.port import Handler, Interest, Receipt
from bus.server import EmbeddedServer
from runners.loop import run
from schemas.nodes import NodeLeaving
from schemas.wire import Message, seal

AT_ONCE, MANY, ONE_BY_ONE = 64, 3000, 300
EVERY = 0.02  # seconds between records while servers are killed
BEFORE = 50  # records that pass before a kill
CALM = 0.2  # seconds between looks at whether all copies are there
PATIENCE = 120.0  # seconds for any one thing


@dataclass
class Cost:
    """Of one way to store."""

    servers: int
    stored_per_s: float
    awaited_ms: float


@dataclass
class Kill:
    """Of a server that led."""

    stored_after_s: float
    heard_after_s: float


class Fleet:
    """Who publishes and who hears."""

    def __init__(self, speaker: NatsBus, listener: NatsBus) -> None:
        self.speaker = speaker
        self.listener = listener
        self.born = time.time_ns()  # no id of an earlier fleet's on these servers
        self.number = 0
        self.heard: dict[str, list[float]] = {}
        self._all_heard = asyncio.Event()
        self._awaited: set[str] = set()

    async def listen(self) -> None:
        """Both subscriptions."""
        for durable in ("listener", None):
            await self.listener.subscribe([Interest(NodeLeaving)], self._hear(set()), durable=durable)

    def _hear(self, known: set[str]) -> Handler:
        def hear(message: Message, receipt: Receipt | None) -> None:
            if receipt is not None:
                receipt.ack()
            if message.id not in known:
                known.add(message.id)
                self.heard.setdefault(message.id, []).append(time.monotonic())
                if len(self.heard[message.id]) == 2:
                    self._awaited.discard(message.id)
                    if not self._awaited:
                        self._all_heard.set()

        return hear

    async def hear_all(self, names: set[str]) -> None:
        """Returns once both subscriptions have had these."""
        self._awaited = {name for name in names if len(self.heard.get(name, ())) < 2}
        self._all_heard.clear()
        if self._awaited:
            async with asyncio.timeout(PATIENCE):
                await self._all_heard.wait()

    async def publish(self) -> tuple[str, float, float]:
        """One record: (id, published, acknowledged)."""
        self.number += 1
        message = NodeLeaving(node="a", reason="asked to end, in a record of a usual size " * 3)
        seal(message, id=f"speaker:{self.born}:{self.number}", cause="", at=0.0, source="speaker")
        begun = time.monotonic()
        await self.speaker.publish(message)
        return message.id, begun, time.monotonic()

    async def leader(self) -> int:
        """The place of the server that leads the records, once all copies are there."""
        async with asyncio.timeout(PATIENCE):
            while True:
                info = (await self.speaker._nc.jetstream(timeout=PATIENCE).stream_info(RECORD)).cluster
                if info is not None and info.leader and all(one.current for one in info.replicas or ()):
                    return int(info.leader.rpartition("-")[2]) - 1
                await asyncio.sleep(CALM)

    async def close(self) -> None:
        """Both go."""
        await asyncio.gather(self.speaker.close(), self.listener.close())


async def joined(url: str) -> Fleet:
    """Participants that start with different servers, where there are several."""
    speaker = await NatsBus.connect(url, source="speaker", store_timeout=PATIENCE)
    return Fleet(speaker, await NatsBus.connect(url, source="listener", store_timeout=PATIENCE))


async def cost(url: str, servers: int) -> Cost:
    """Publishing alone."""
    fleet = await joined(url)
    for _ in range(AT_ONCE):
        await fleet.publish()
    left = iter(range(MANY))
    begun = time.monotonic()

    async def work() -> None:
        for _ in left:
            await fleet.publish()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    rate = MANY / (time.monotonic() - begun)
    single = []
    for _ in range(ONE_BY_ONE):
        _, sent, stored = await fleet.publish()
        single.append(stored - sent)
    await fleet.close()
    return Cost(servers=servers, stored_per_s=rate, awaited_ms=1e3 * statistics.median(single))


async def kills(cluster: EmbeddedCluster, count: int) -> list[Kill]:
    """The leader, time and again."""
    fleet = await joined(cluster.url)
    await fleet.listen()
    found = []
    for _ in range(count):
        leader = await fleet.leader()
        sent: list[asyncio.Task[tuple[str, float, float]]] = []
        fleet.heard.clear()
        killed_after, enough = BEFORE, False
        while not enough:
            sent.append(asyncio.create_task(fleet.publish()))
            await asyncio.sleep(EVERY)
            if len(sent) == killed_after:
                pid = cluster.servers[leader].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            # As many again as before, once one was stored that was sent after the kill.
            enough = len(sent) > 2 * killed_after and all(task.done() for task in sent[killed_after : 2 * killed_after])
        records = await asyncio.gather(*sent)
        await fleet.hear_all({name for name, _, _ in records})
        stored = max(stored - begun for _, begun, stored in records)
        heard = max(max(fleet.heard[name]) - begun for name, begun, _ in records)
        found.append(Kill(stored_after_s=stored, heard_after_s=heard))
    await fleet.close()
    return found


async def measure(count: int) -> tuple[list[Cost], list[Kill]]:
    """One server, then three."""
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedServer(Path(folder) / "one") as server:
            costs.append(await cost(server.url, 1))
        async with EmbeddedCluster(Path(folder) / "three", 3) as cluster:
            costs.append(await cost(cluster.url, 3))
            return costs, await kills(cluster, count)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="of servers that lead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    costs, killed = run(measure(options.kills))
    if options.json:
        figures = {"costs": [asdict(one) for one in costs], "kills": [asdict(one) for one in killed]}
        print(json.dumps({"load": load, **figures}))
        return
    print(f"load of the machine {load:.1f} on {os.cpu_count()} processors")
    for one in costs:
        print(f"{one.servers} servers: {one.stored_per_s:,.0f} stored/s, {one.awaited_ms:.1f} ms awaited one by one")
    for name in ("stored_after_s", "heard_after_s"):
        seconds = [float(getattr(one, name)) for one in killed]
        what = name.removesuffix("_s").replace("_", " ")
        print(f"{what}: median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s of {len(seconds)} kills")


if __name__ == "__main__":
    sys.exit(main())

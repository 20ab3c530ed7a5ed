"""Tensors over the bus on loopback: MB/s and CPU of both sides, beside raw nats-py with chunks of the same size.

    python -m benchmarks.tensors [--json] [--rounds 5] [--mib 64] [--streams 1]

Two processes and an embedded nats-server. `stream`: one follower, from the first chunk until it has the whole, its
SHA-256 checked. `fetch`: from the request until then. `raw nats-py`: the same number of chunks published on one
connection and counted on another, 16 MiB unacknowledged at most, nothing checked or put together. CPU is each
process's own time per GB of tensor. They take turns in every round; figures are medians, with the range of the rate.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import nats

from benchmarks.events import heard, run
from bus.server import EmbeddedServer
from bus.tensor_frames import CHUNK, WINDOW
from bus.tensors import TensorBus

WAYS = ("raw nats-py", "stream", "fetch")
TIMEOUT = 60.0  # seconds for one transfer
MIB = 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One way; MB/s by the receiver's clock, CPU in seconds a GB."""

    way: str
    mb_s: float
    low_mb_s: float
    high_mb_s: float
    sender_cpu: float
    receiver_cpu: float


async def receive_raw(url: str, pipe: Connection, size: int) -> None:
    """Counts bytes and acknowledges every sixteenth of a window."""
    client, got, owed, whole = await nats.connect(url), 0, 0, asyncio.Event()

    async def received(msg: Any) -> None:
        nonlocal got, owed
        got += len(msg.data)
        owed += len(msg.data)
        if owed >= WINDOW // 16:
            await client.publish("raw.ack", b"%d" % owed)
            owed = 0
        if got >= size:
            whole.set()

    await client.subscribe("raw.chunk", cb=received)
    await client.flush()
    await client.flush()  # the first one's ping may overtake the subscription
    await measured(pipe, whole.wait)
    await client.close()


async def receive_tensor(url: str, pipe: Connection, order: tuple[str, int, str]) -> None:
    """Follows, or fetches."""
    way, size, digest = order
    bus = await TensorBus.connect(url, job="bench", node="receiver")
    if way == "stream":
        await bus.follow("delta")
    await measured(pipe, lambda: bus.fetch("sender", "delta", "1", size, digest, TIMEOUT))
    await bus.close()


async def measured(pipe: Connection, work: Callable[[], Awaitable[object]]) -> None:
    """Tell the other side to begin, do it, report (seconds, CPU seconds)."""
    cpu, begun = time.process_time(), time.perf_counter()
    pipe.send("ready")
    await work()
    pipe.send((time.perf_counter() - begun, time.process_time() - cpu))


def receive(pipe: Connection) -> None:
    """The second process."""
    while (order := pipe.recv()) is not None:
        way, url, size, digest = order
        run(receive_raw(url, pipe, size) if way == "raw nats-py" else receive_tensor(url, pipe, (way, size, digest)))


async def send_raw(
    url: str, data: bytes, ready: Callable[[], Awaitable[object]], done: Callable[[], Awaitable[Any]]
) -> Any:
    """Publishes chunks, a window ahead of the acknowledgements."""
    client, under_way, room = await nats.connect(url, pending_size=CHUNK // 2), 0, asyncio.Event()

    async def acknowledged(msg: Any) -> None:
        nonlocal under_way
        under_way -= int(msg.data)
        room.set()

    await client.subscribe("raw.ack", cb=acknowledged)
    await client.flush()
    view = memoryview(data)
    await ready()
    for at in range(0, len(data), CHUNK):
        while under_way + CHUNK > WINDOW:
            room.clear()
            await room.wait()
        await client.publish("raw.chunk", bytes(view[at : at + CHUNK]))
        under_way += CHUNK
        await asyncio.sleep(0)
    outcome = await done()
    await client.close()
    return outcome


async def transfer(way: str, url: str, data: bytes, pipe: Connection, streams: int) -> tuple[float, float, float]:
    """(seconds, sender's CPU, receiver's CPU) of one transfer."""
    begun = 0.0

    async def ready() -> None:
        nonlocal begun
        assert await heard(pipe) == "ready"
        begun = time.process_time()

    async def done() -> Any:
        seconds, cpu = await heard(pipe)
        return seconds, time.process_time() - begun, cpu

    if way == "raw nats-py":
        pipe.send((way, url, len(data), ""))
        outcome = await send_raw(url, data, ready, done)
    else:
        bus = await TensorBus.connect(url, job="bench", node="sender", streams=streams)
        held = bus.keep("delta", "1", data)
        pipe.send((way, url, held.size, held.digest))
        await ready()
        if way == "stream":
            await bus.stream("delta", "1")
        outcome = await done()
        await bus.close()
    return outcome  # type: ignore[no-any-return]


async def measure(rounds: int, mib: int, streams: int) -> list[Row]:
    """Every way, in turns."""
    data = os.urandom(mib * MIB)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=receive, args=(theirs,), daemon=True)
    child.start()
    samples: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as store:
        async with EmbeddedServer(Path(store)) as server:
            for turn in range(rounds):
                first = turn % len(WAYS)
                for way in WAYS[first:] + WAYS[:first]:
                    samples[way].append(await transfer(way, server.url, data, ours, streams))
    ours.send(None)
    child.join()
    made = []
    for way, runs in samples.items():
        rates = [len(data) / seconds / 1e6 for seconds, _, _ in runs]
        made.append(
            Row(
                way=way,
                mb_s=statistics.median(rates),
                low_mb_s=min(rates),
                high_mb_s=max(rates),
                sender_cpu=statistics.median(run[1] for run in runs) / len(data) * 1e9,
                receiver_cpu=statistics.median(run[2] for run in runs) / len(data) * 1e9,
            )
        )
    return made


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--streams", type=int, default=1)
    arguments = parser.parse_args()
    rows = run(measure(arguments.rounds, arguments.mib, arguments.streams))
    if arguments.json:
        facts = {"machine": platform.machine(), "python": platform.python_version(), "mib": arguments.mib}
        print(json.dumps(facts | {"streams": arguments.streams, "rows": [asdict(row) for row in rows]}))
        return
    print(f"{'way':<12} {'rate':>10} {'range':>16} {'sender':>12} {'receiver':>12}")
    for row in rows:
        span = f"{row.low_mb_s:.0f}-{row.high_mb_s:.0f}"
        print(f"{row.way:<12} {row.mb_s:>5.0f} MB/s {span:>16} {row.sender_cpu:>7.2f} s/GB {row.receiver_cpu:>7.2f} s/GB")


if __name__ == "__main__":
    main()

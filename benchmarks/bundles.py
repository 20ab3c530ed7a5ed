"""What a job's code costs on its way: packed and signed, put into the object store, taken by a node, used there again.

    python -m benchmarks.bundles [--json] [--link PROFILE]

A server on loopback; with `--link` the node's fetch goes through an emulated link. The first row is `examples/`, the second
a bundle near the limit, whose file can't be compressed. Medians of several runs.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from bus import processes
from bus.nats import NatsBus
from bus.server import EmbeddedServer
from bus.shaping.profiles import PROFILES
from runners.bundles.shelf import Shelf
from runners.bundles.submitting import Packed, make_bundle

ROOT = Path(__file__).parents[1]
RUNS = 5
LARGE = 30_000_000
"""Bytes of the large bundle's file: under the limit of 32 MiB."""


@dataclass(frozen=True)
class Row:
    """One bundle; times in milliseconds."""

    what: str
    files: int
    content_bytes: int
    stored_bytes: int
    pack_ms: float
    """Files chosen by syntax trees, read, packed, hashed, signed, compressed."""
    put_ms: float
    take_ms: float
    """On a node that has it not: fetched, checked, unpacked."""
    again_ms: float
    """On a node that has it: checked against the digest."""


async def measure(link: str | None) -> list[Row]:
    """A row for each bundle."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "large").mkdir()
        (home / "large" / "mine.py").write_text("x = 1\n")
        (home / "large" / "table.bin").write_bytes(Random(0).randbytes(LARGE))
        async with EmbeddedServer(home / "server") as server, _linked(server.url, link) as url:
            examples = await _measure("examples", "examples.digits:workload", ROOT, [], home, server.url, url)
            if link is not None:
                return [examples]
            return [examples, await _measure("30 MB", "mine:x", home / "large", ["table.bin"], home, server.url, url)]


async def _measure(what: str, workload: str, root: Path, files: list[str], home: Path, near: str, far: str) -> Row:
    pack, put, take, again = [], [], [], []
    bus = await NatsBus.connect(near, source="submitter")
    packed: Packed | None = None

    async def fetch(name: str, limit: int, arrived: Callable[[], None]) -> bytes:
        own = await NatsBus.connect(far, source="node")
        try:
            return await own.get_object(name, limit=limit, arrived=arrived)
        finally:
            await own.close()

    for _ in range(RUNS):
        begun = time.perf_counter()
        packed = make_bundle(workload, root, files, home)
        pack.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        await bus.put_object(packed.name, packed.data)
        put.append(time.perf_counter() - begun)
        shelf = Shelf(home, fetch)
        for times in (take, again):
            begun = time.perf_counter()
            held = await shelf.take(workload, packed.source, lambda: None)
            times.append(time.perf_counter() - begun)
            held.release()
        shutil.rmtree(home / "bundles")
    await bus.close()
    assert packed is not None
    middle = (round(1000 * statistics.median(times), 1) for times in (pack, put, take, again))
    return Row(what, len(packed.files), packed.source.size, len(packed.data), *middle)


@contextlib.asynccontextmanager
async def _linked(url: str, link: str | None) -> AsyncIterator[str]:
    """The server's URL, or that of an emulated link to it."""
    if link is None:
        yield url
        return
    argv = [
        sys.executable,
        "-m",
        "bus.shaping",
        "--upstream",
        url.removeprefix("nats://"),
        "--profile",
        link,
        "--node",
        "n",
    ]
    emulator = await processes.spawn(argv, stdout=asyncio.subprocess.PIPE, new_session=True)
    try:
        assert emulator.stdout is not None
        line = (await emulator.stdout.readline()).decode().strip()
        yield f"nats://{line.removeprefix('listening ')}"
    finally:
        await processes.end(emulator, 1.0)


def main() -> None:
    """Measures and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description="Milliseconds that a job's code takes on its way to a node.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--link", choices=sorted(PROFILES), help="emulate the node's link (the small bundle alone)")
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments.link))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{'bundle':10}{'files':>6}{'bytes':>12}{'stored':>12}{'pack':>9}{'put':>9}{'take':>9}{'again':>9}  (ms)")
    for row in rows:
        times = "".join(f"{value:>9.1f}" for value in (row.pack_ms, row.put_ms, row.take_ms, row.again_ms))
        print(f"{row.what:10}{row.files:>6}{row.content_bytes:>12}{row.stored_bytes:>12}{times}")


if __name__ == "__main__":
    main()

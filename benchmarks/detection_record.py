"""Records when heartbeats of real nodes come in over emulated links, for `benchmarks.detection`.

    python -m benchmarks.detection_record [--seconds 420] [--out benchmarks/heartbeats.json]

A nats-server, and a node's process per profile behind the shaping proxy, heartbeats once a second. After two minutes each
link has a spike of 800 ms for 8 s, after three an outage of 2 s, which also ends its connections; in the last two minutes
four processes that only compute share the machine with them. Kept: seconds at which each heartbeat came.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from bus import processes
from bus.nats import NatsBus
from bus.port import Interest, Receipt
from bus.server import EmbeddedServer
from runners.loop import run
from schemas.emulation import LinkOrder
from schemas.nodes import NodeHeartbeat
from schemas.wire import Message, seal

PROFILES = ("perfect", "good", "average", "poor", "unstable")
SPIKE_AT, OUTAGE_AT = 120.0, 180.0  # seconds from the start
SPIKE_SECONDS, OUTAGE_SECONDS = 8.0, 2.0
LOADED_SECONDS = 120.0
BURNERS = 4  # processes that only compute: twice as many as a small machine has cores
HERE = Path(__file__).with_name("heartbeats.json")


def burn() -> None:
    """Compute for ever."""
    while True:
        sum(range(100_000))


async def record(seconds: float) -> dict[str, list[float]]:
    """Arrivals by profile."""
    arrivals: dict[str, list[float]] = {profile: [] for profile in PROFILES}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with EmbeddedServer(Path(folder)) as server:
            bus = await NatsBus.connect(server.url, source="recording")
            begun = time.monotonic()

            def heard(message: Message, receipt: Receipt | None) -> None:
                if isinstance(message, NodeHeartbeat):
                    arrivals[message.node].append(round(time.monotonic() - begun, 4))

            await bus.subscribe([Interest(NodeHeartbeat)], heard)
            nodes = [await processes.spawn(_argv(profile, server.url, folder)) for profile in PROFILES]
            try:
                await asyncio.sleep(SPIKE_AT)
                await _order(bus, "spike", SPIKE_SECONDS)
                await asyncio.sleep(OUTAGE_AT - SPIKE_AT)
                await _order(bus, "disconnect", OUTAGE_SECONDS)
                await asyncio.sleep(seconds - OUTAGE_AT - LOADED_SECONDS)
                burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(BURNERS)]
                for burner in burners:
                    burner.start()
                await asyncio.sleep(LOADED_SECONDS)
                for burner in burners:
                    burner.kill()
            finally:
                await asyncio.gather(*(processes.end(node, 5.0) for node in nodes))
                await bus.close()
    return arrivals


def _argv(profile: str, url: str, folder: str) -> list[str]:
    options = ["--name", profile, "--link", profile, "--server", url, "--store", folder]
    return [sys.executable, "-m", "runners.node_process", *options]


async def _order(bus: NatsBus, do: str, seconds: float) -> None:
    for number, profile in enumerate(PROFILES):
        order = LinkOrder(node=profile, do=do, seconds=seconds)  # type: ignore[arg-type]
        await bus.publish(seal(order, id=f"recording:1:{do}-{number}", cause="", at=time.time(), source="recording"))


def main() -> None:
    """Record, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    arrivals = run(record(options.seconds))
    options.out.write_text(json.dumps(arrivals, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print({profile: len(times) for profile, times in arrivals.items()})


if __name__ == "__main__":
    main()

"""How long an agent with a standby is away when its leader is killed or stands still.

    python -m benchmarks.standby [--json] [--times 5]

A nats-server and two processes of the desk. In turn the leader gets SIGKILL, and is started again once the other leads, or
SIGSTOP, until the other leads. `away`: from the signal until a client's request, sent as soon as the other says that it
leads, is answered. `fenced`: of one that stood still, from SIGCONT until it has dropped what it decided and stands by.
The aim is 2 s. Wall-clock times of processes on this machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bus import processes
from bus.nats import NatsBus
from bus.port import BusError, Interest
from bus.server import EmbeddedServer
from schemas.decisions import AgentStarted
from schemas.jobs import ListRequest
from schemas.wire import Message, encode

AGENT = "job_desk"
AIM = 2.0  # seconds
PATIENCE = 120.0  # seconds for anything: far more than it takes
ASK_EVERY = 0.02  # seconds
STANDS_BY = "stands by"


class Desk:
    """Two processes of the desk on one server, and who leads."""

    def __init__(self, store: Path, bus: NatsBus, url: str) -> None:
        self.store = store
        self.bus = bus
        self.url = url
        self.running: dict[int, asyncio.subprocess.Process] = {}
        self.lives = 0
        self.changed = asyncio.Event()

    def log(self, number: int) -> Path:
        """What a process printed."""
        return self.store / f"{AGENT}-{number}.log"

    async def start(self, number: int) -> None:
        """Start one of the processes."""
        argv = (sys.executable, "-m", "runners.agent_process", AGENT, "--server", self.url, "--store", str(self.store))
        with self.log(number).open("ab") as out:
            replica = ("--replica", str(number))
            self.running[number] = await processes.spawn((*argv, *replica), stdout=out, stderr=out)

    def heard(self, message: Message, receipt: object) -> None:
        """A life began."""
        receipt.ack()  # type: ignore[attr-defined]
        self.lives += 1
        self.changed.set()

    async def led(self, lives: int) -> None:
        """Return once so many lives have led."""
        async with asyncio.timeout(PATIENCE):
            while self.lives < lives:
                self.changed.clear()
                await self.changed.wait()

    async def answered(self) -> None:
        """Return once a request is answered."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(BusError):
                    await self.bus.request("shoal.jobs.list", encode(ListRequest()), PATIENCE)
                    return
                await asyncio.sleep(ASK_EVERY)

    def said(self, number: int, what: str) -> int:
        """How often a process has printed something."""
        return self.log(number).read_text().count(what)

    async def says(self, number: int, what: str, before: int) -> None:
        """Return once a process has printed something once more."""
        for _ in range(int(PATIENCE / ASK_EVERY)):
            if self.said(number, what) > before:
                return
            await asyncio.sleep(ASK_EVERY)
        raise TimeoutError(f"process {number} never said that it {what}")


async def measure(times: int) -> dict[str, list[float]]:
    """Seconds of each kind."""
    found: dict[str, list[float]] = {"away after SIGKILL": [], "away after SIGSTOP": [], "fenced after SIGCONT": []}
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder))
        await server.start()
        bus = await NatsBus.connect(server.url, source="benchmark")
        desk = Desk(Path(folder), bus, server.url)
        try:
            await bus.subscribe([Interest(AgentStarted)], desk.heard)
            await desk.start(1)
            await desk.led(1)
            await desk.start(2)
            await desk.says(2, STANDS_BY, 0)
            leader = 1
            for _ in range(times):
                for kind in ("SIGKILL", "SIGSTOP"):
                    lives, process, before = desk.lives, desk.running[leader], desk.said(leader, STANDS_BY)
                    begun = time.monotonic()
                    os.kill(process.pid, signal.Signals[kind])
                    await desk.led(lives + 1)
                    await desk.answered()
                    found[f"away after {kind}"].append(time.monotonic() - begun)
                    begun = time.monotonic()
                    if kind == "SIGKILL":
                        await process.wait()
                        await desk.start(leader)
                        await desk.says(leader, STANDS_BY, before)
                    else:
                        os.kill(process.pid, signal.SIGCONT)
                        await desk.says(leader, STANDS_BY, before)
                        found["fenced after SIGCONT"].append(time.monotonic() - begun)
                    leader = 3 - leader
        finally:
            for process in desk.running.values():
                await processes.end_now(process)
            await bus.close()
            await server.stop()
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="of each kind of end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(measure(options.times))
    if options.json:
        print(json.dumps({"aim": AIM, "load": os.getloadavg()[0], "seconds": found}))
        return
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for what, seconds in found.items():
        print(f"{what:<22} median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s of {len(seconds)}")


if __name__ == "__main__":
    main()

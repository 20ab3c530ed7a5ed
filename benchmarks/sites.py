"""What `--site` saves: two sites of two nodes, each site behind one emulated link that its nodes share.

    python -m benchmarks.sites [--json] [--link average] [--cc bbr] [--rounds 8] [--parameters 1000000]

One process: an embedded server, two emulated links, four nodes with their real cores, torch threads, tensors and, inside
the sites, gloo. Differences and averages travel in int8; a step is padded to 50 ms and a round has ten, so that what is
measured is transfers. The first node of the first site reduces. Bytes are what each link carried, messages included, over
the rounds after the third (by then the sites are groups); seconds are a round's from its opening to the next one's, the
median.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bus.nats import NatsBus
from bus.port import Interest, Receipt, Start
from bus.server import EmbeddedServer
from bus.shaping import PROFILES, ShapingProxy
from bus.tensors import TensorBus
from runners.jobs import training
from runners.jobs.spec import JobSpec
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import Assignment, Roster, RoundClosed, RoundOpened, Share, TrainerReady
from schemas.wire import Message, seal

SITES = (("lab-1", "lab-2"), ("shed-1", "shed-2"))
NODES = tuple(node for site in SITES for node in site)
WARM = 3  # rounds before it counts
PATIENCE = 600.0  # seconds for a whole run
WORKLOAD = """
import torch
from torch import nn

class Bulk:
    def model(self):
        return nn.Sequential(nn.Linear({inputs}, 1000, bias=False))
    def samples(self, split):
        return [torch.linspace(-1, 1, {inputs}) * n for n in range(16)]
    def loss(self, model, batch):
        return model(batch).square().mean()
    def validate(self, model):
        return 0.5

workload = Bulk()
"""


@dataclass(frozen=True)
class Row:
    """One way of running; bytes a round of each site's link, seconds a round."""

    way: str
    seconds: float
    slowest_seconds: float
    lab_up: int
    lab_down: int
    shed_up: int
    shed_down: int
    together: int
    """Rounds of those measured in which both sites sent as one."""


class Race:
    """One run: says what an orchestrating fleet would, and notes what rounds took."""

    def __init__(self, bus: NatsBus, links: list[ShapingProxy], request: JobRequest) -> None:
        self.bus, self.links, self.request = bus, links, request
        self.opened: dict[int, float] = {}
        self.carried: dict[int, list[tuple[int, int]]] = {}
        self.closed: dict[int, RoundClosed] = {}
        self.ready: set[str] = set()
        self.moved = asyncio.Event()

    def hear(self, message: Message, receipt: Receipt | None) -> None:
        """A word of the job's."""
        match message:
            case TrainerReady():
                self.ready.add(message.node)
            case RoundOpened() if message.round not in self.opened:
                self.opened[message.round] = asyncio.get_running_loop().time()
                self.carried[message.round] = [
                    (link.counters().up_bytes, link.counters().down_bytes) for link in self.links
                ]
            case RoundClosed():
                self.closed[message.round] = message
            case _:
                pass
        self.moved.set()
        if receipt is not None:
            receipt.ack()

    async def until(self, what: str, count: int) -> None:
        """Until so many nodes are ready, or rounds are closed."""
        while len(getattr(self, what)) < count:
            self.moved.clear()
            await self.moved.wait()

    async def order(self, sited: bool) -> None:
        """What desk, selector and batch controller say."""
        share = Share(microbatch=2, local_steps=10, encoding="int8")
        state = JobState(
            job="j",
            version=1,
            state=JobPhase.RUNNING,
            reason="",
            round=0,
            rounds=self.request.rounds,
            request=self.request,
            submitted_at=0.0,
        )
        assignment = Assignment(
            job="j",
            version=1,
            roster_version=1,
            shares=dict.fromkeys(NODES, share),
            average_encoding="int8",
            round_seconds=10.0,
            deadline_seconds=60.0,
            strategy="fixed",
            reason="",
        )
        roster = Roster(
            job="j", version=1, nodes=NODES, reducers=NODES[:1], quorum=4, sites=SITES if sited else (), reason=""
        )
        for number, message in enumerate((state, assignment, roster)):
            await self.bus.publish(seal(message, id=f"desk:1:{number}", cause="", at=0.0, source="desk"))

    def row(self, way: str) -> Row:
        """What came of it."""
        measured = [n for n in sorted(self.opened) if n > WARM and n + 1 in self.opened]
        took = [self.opened[n + 1] - self.opened[n] for n in measured]
        first, last = self.carried[measured[0]], self.carried[measured[-1] + 1]
        total = [
            after - before for one, two in zip(first, last, strict=True) for before, after in zip(one, two, strict=True)
        ]
        each = [round(carried / len(measured)) for carried in total]
        speakers = [{part.through for part in self.closed[n].contributions} for n in measured]
        together = sum(None not in sent for sent in speakers)
        return Row(way, statistics.median(took), max(took), each[0], each[1], each[2], each[3], together)


async def run(way: str, options: argparse.Namespace, folder: Path) -> Row:
    """One job, with or without sites."""
    request = JobRequest(
        kind="train",
        workload="bulk:workload",
        rounds=options.rounds + WARM + 1,
        checkpoint_every=0,
        validate_every=0,
        verify_every=0,
        microbatch=2,
    )
    async with EmbeddedServer(folder / way) as server:
        at = urlsplit(server.url)
        assert at.hostname
        assert at.port
        profile = PROFILES[options.link]
        links = [ShapingProxy(at.hostname, at.port, profile, options.cc, seed) for seed in range(len(SITES))]
        urls = [f"nats://127.0.0.1:{await link.start()}" for link in links]
        desk = await NatsBus.connect(server.url, source="desk")
        race, stop = Race(desk, links, request), asyncio.Event()
        kinds = (TrainerReady, RoundOpened, RoundClosed)
        await desk.subscribe([Interest(kind, {"job": "j"}) for kind in kinds], race.hear, start=Start.ALL)

        async def node(name: str, url: str) -> None:
            spec = JobSpec(
                job="j", node=name, server=url, request=request, app_dir=str(folder), device="cpu", step_time_ms=50.0
            )
            own = await NatsBus.connect(url, source=f"trainer/j/{name}")
            tensors = await TensorBus.connect(url, job="j", node=name)
            await training._take_part(spec, own, tensors, stop)
            await tensors.close()
            await own.close()

        running = [asyncio.ensure_future(node(name, url)) for site, url in zip(SITES, urls, strict=True) for name in site]
        async with asyncio.timeout(PATIENCE):
            await race.until("ready", len(NODES))
            await race.order(way == "sites")
            await race.until("closed", request.rounds)
        stop.set()
        await asyncio.gather(*running)
        await desk.close()
        for link in links:
            await link.close()
    return race.row(way)


async def compare(options: argparse.Namespace) -> list[Row]:
    """Both ways, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bulk.py").write_text(WORKLOAD.format(inputs=max(1, options.parameters // 1000)))
        return [await run(way, options, folder) for way in ("alone", "sites")]


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--link", choices=sorted(PROFILES), default="average")
    parser.add_argument("--cc", choices=("cubic", "bbr"), default="bbr")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    options = parser.parse_args()
    rows = asyncio.run(compare(options))
    if options.json:
        print(json.dumps({"link": options.link, "cc": options.cc, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    print(f"{'way':8} {'s/round':>8} {'slowest':>8}   kB a round: lab up, down; shed up, down   rounds sent together")
    for row in rows:
        sizes = "  ".join(f"{size / 1000:8.0f}" for size in (row.lab_up, row.lab_down, row.shed_up, row.shed_down))
        print(f"{row.way:8} {row.seconds:8.2f} {row.slowest_seconds:8.2f}   {sizes}   {row.together}")


if __name__ == "__main__":
    main()

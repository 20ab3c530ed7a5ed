"""A job that several nodes reduce, in one process: real cores, torch, tensors and server."""

import asyncio
from pathlib import Path

from bus.nats import NatsBus
from bus.port import Interest, Receipt, Start
from bus.server import EmbeddedServer
from bus.tensors import TensorBus
from runners.jobs import training
from runners.jobs.spec import JobSpec
from schemas.jobs import JobPhase, JobRequest, JobState, ModelStored
from schemas.training import Assignment, AverageOffered, Roster, RoundApplied, RoundClosed, Share
from schemas.wire import Message, seal

PATIENCE = 60.0  # seconds: far more than this takes on a busy machine

WORKLOAD = """
import torch
from torch import nn

class Square:
    def model(self):
        torch.seed()  # no two nodes begin with the same bits
        return nn.Sequential(nn.Linear(200, 200), nn.BatchNorm1d(200))
    def samples(self, split):
        return [torch.linspace(-1, 1, 200) * n for n in range(16)]
    def loss(self, model, batch):
        return (model(batch) - batch.flip(1)).square().mean()
    def validate(self, model):
        return 0.5

workload = Square()
"""
NAMES = ("a", "b", "c")
ROUNDS = 6


class Story:
    """What was said of the job."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.moved = asyncio.Event()

    def hear(self, message: Message, receipt: Receipt | None) -> None:
        self.heard.append(message)
        self.moved.set()
        if receipt is not None:
            receipt.ack()

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, kind: type[Message], count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.of(kind)) < count:
                self.moved.clear()
                await self.moved.wait()


async def orders(bus: NatsBus, request: JobRequest) -> None:
    """What desk, selector and batch controller would say."""
    share = Share(microbatch=4, local_steps=3, encoding="int8")
    state = JobState(
        job="j", version=1, state=JobPhase.RUNNING, reason="", round=0, rounds=ROUNDS, request=request, submitted_at=0.0
    )
    roster = Roster(job="j", version=1, nodes=NAMES, reducers=NAMES, helpers=NAMES, quorum=2, reason="")
    assignment = Assignment(
        job="j", version=1, roster_version=1, shares=dict.fromkeys(NAMES, share), average_encoding="int8",
        round_seconds=1.0, deadline_seconds=3.0, strategy="fixed", reason="",
    )  # fmt: skip
    for number, message in enumerate((state, roster, assignment)):
        await bus.publish(seal(message, id=f"desk:1:{number}", cause="", at=0.0, source="desk"))


async def test_shards_of_real_tensors_make_up_one_anchor_and_a_helper_may_go(tmp_path: Path) -> None:
    (tmp_path / "square_work.py").write_text(WORKLOAD)
    request = JobRequest(
        kind="train", workload="square_work:workload", rounds=ROUNDS, reducers=3, checkpoint_every=0, verify_every=0
    )
    story = Story()
    async with EmbeddedServer(tmp_path / "store") as server:
        desk = await NatsBus.connect(server.url, source="desk")
        kinds = (RoundClosed, RoundApplied, AverageOffered, ModelStored)
        await desk.subscribe([Interest(kind, {"job": "j"}) for kind in kinds], story.hear, start=Start.ALL)
        await orders(desk, request)
        stops = {name: asyncio.Event() for name in NAMES}

        async def node(name: str) -> None:
            spec = JobSpec(job="j", node=name, server=server.url, request=request, app_dir=str(tmp_path), device="cpu")
            bus = await NatsBus.connect(server.url, source=f"trainer/j/{name}")
            tensors = await TensorBus.connect(server.url, job="j", node=name)
            await training._take_part(spec, bus, tensors, stops[name])
            await tensors.close()
            await bus.close()

        running = [asyncio.ensure_future(node(name)) for name in NAMES]
        await story.until(RoundClosed, 2)
        stops["c"].set()  # in the midst of a round, without a word to the others
        await story.until(ModelStored, 1)
        for stop in stops.values():
            stop.set()
        await asyncio.gather(*running)
        await desk.close()
    closed = {message.round: message for message in story.of(RoundClosed) if isinstance(message, RoundClosed)}
    assert sorted(closed) == list(range(1, ROUNDS + 1))
    makers = [{m.node for m in story.of(AverageOffered) if isinstance(m, AverageOffered) and m.round == n} for n in closed]
    assert makers[0] == set(NAMES)
    assert makers[-1] == {"a", "b"}
    for each in closed.values():
        assert sorted(piece for shard in each.average.shards for piece in shard.pieces) == [0, 1, 2]
    applied = [m for m in story.of(RoundApplied) if isinstance(m, RoundApplied)]
    digests = sorted({(m.version, m.digest) for m in applied if m.version > 0})
    assert [version for version, _ in digests] == list(range(1, ROUNDS + 1)), "one anchor a version, and the same for all"

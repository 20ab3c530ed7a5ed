"""A job some of whose nodes stand at one site, in one process: real cores, torch, gloo, tensors and server."""

import asyncio
from pathlib import Path
from typing import TypeVar

from bus.nats import NatsBus
from bus.port import Interest, Receipt, Start
from bus.server import EmbeddedServer
from bus.tensors import TensorBus
from runners.jobs import training
from runners.jobs.spec import JobSpec
from schemas.jobs import JobPhase, JobRequest, JobState, ModelStored
from schemas.sites import SiteOpened
from schemas.training import (
    Assignment,
    AverageHeld,
    ContributionOffered,
    Roster,
    RoundApplied,
    RoundClosed,
    Share,
    TrainerReady,
    TransferTimed,
)
from schemas.wire import Message, seal

M = TypeVar("M", bound=Message)
PATIENCE = 60.0  # seconds: far more than this takes on a busy machine

WORKLOAD = """
import torch
from torch import nn

class Square:
    def model(self):
        return nn.Sequential(nn.Linear(60, 60), nn.BatchNorm1d(60))
    def samples(self, split):
        return [torch.linspace(-1, 1, 60) * n for n in range(16)]
    def loss(self, model, batch):
        return (model(batch) - batch.flip(1)).square().mean()
    def validate(self, model):
        return 0.5

workload = Square()
"""
NAMES = ("a", "b", "c")
ROUNDS = 7


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

    async def until(self, count: int, kind: type[Message], **fields: object) -> None:
        async with asyncio.timeout(PATIENCE):
            while sum(all(getattr(m, k) == v for k, v in fields.items()) for m in self.of(kind)) < count:
                self.moved.clear()
                await self.moved.wait()

    def of(self, kind: type[M]) -> list[M]:
        return [message for message in self.heard if isinstance(message, kind)]


class Desk:
    """Says what desk, selector and batch controller would say."""

    def __init__(self, bus: NatsBus, request: JobRequest) -> None:
        self.bus = bus
        self.request = request
        self.said = 0

    async def say(self, message: Message) -> None:
        self.said += 1
        await self.bus.publish(seal(message, id=f"desk:1:{self.said}", cause="", at=0.0, source="desk"))

    async def begin(self) -> None:
        state = JobState(
            job="j",
            version=1,
            state=JobPhase.RUNNING,
            reason="",
            round=0,
            rounds=ROUNDS,
            request=self.request,
            submitted_at=0,
        )
        share = Share(microbatch=4, local_steps=3, encoding="int8")
        assignment = Assignment(
            job="j", version=1, roster_version=1, shares=dict.fromkeys(NAMES, share), average_encoding="int8",
            round_seconds=1.0, deadline_seconds=20.0, strategy="fixed", reason="",
        )  # fmt: skip
        await self.say(state)
        await self.say(assignment)

    async def enrol(self, version: int, *sites: tuple[str, ...], nodes: tuple[str, ...] = NAMES) -> None:
        await self.say(Roster(job="j", version=version, nodes=nodes, reducers=("c",), quorum=1, sites=sites, reason=""))


async def test_a_site_sends_once_and_gets_once_until_one_of_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "square_site.py").write_text(WORKLOAD)
    request = JobRequest(
        kind="train", workload="square_site:workload", rounds=ROUNDS, checkpoint_every=0, verify_every=0, validate_every=0
    )
    story = Story()
    kinds = (
        RoundClosed, RoundApplied, ContributionOffered, ModelStored, TrainerReady, SiteOpened, TransferTimed, AverageHeld
    )  # fmt: skip
    async with EmbeddedServer(tmp_path / "store") as server:
        bus = await NatsBus.connect(server.url, source="desk")
        await bus.subscribe([Interest(kind, {"job": "j"}) for kind in kinds], story.hear, start=Start.ALL)
        desk, stops = Desk(bus, request), {name: asyncio.Event() for name in NAMES}

        async def node(name: str) -> None:
            spec = JobSpec(job="j", node=name, server=server.url, request=request, app_dir=str(tmp_path), device="cpu")
            own = await NatsBus.connect(server.url, source=f"trainer/j/{name}")
            tensors = await TensorBus.connect(server.url, job="j", node=name)
            await training._take_part(spec, own, tensors, stops[name])
            await tensors.close()
            await own.close()

        await desk.begin()
        running = {name: asyncio.ensure_future(node(name)) for name in NAMES}
        await story.until(3, TrainerReady)
        await desk.enrol(1, ("a", "b"))
        await story.until(1, ContributionOffered, node="a", round=4)
        stops["b"].set()  # in the midst of a round, without a word to the others
        await running["b"]
        await desk.enrol(2, nodes=("a", "c"))
        await story.until(1, ModelStored)
        for stop in stops.values():
            stop.set()
        await asyncio.gather(*running.values())
        await bus.close()
    _check(story)


def _check(story: Story) -> None:
    closed = {message.round: message for message in story.of(RoundClosed)}
    assert sorted(closed) == list(range(1, ROUNDS + 1))
    together = [c for each in closed.values() for c in each.contributions if c.through]
    assert {(c.node, c.through) for c in together} == {("a", "a"), ("b", "a")}
    assert len(together) >= 2, "the site sent as one in a round at least"
    rounds = {c.round for c in together}
    assert not [o for o in story.of(ContributionOffered) if o.node == "b" and o.round in rounds], "b left it to a"
    for each in closed.values():
        counted = [(c.node, c.round) for c in each.contributions]
        assert len(set(counted)) == len(counted)
        assert abs(sum(c.weight for c in each.contributions) - 1) < 1e-6
    assert [c.node for c in closed[ROUNDS].contributions] == ["a", "c"]
    digests = sorted({(m.version, m.digest) for m in story.of(RoundApplied) if m.version > 0})
    assert [version for version, _ in digests] == list(range(1, ROUNDS + 1)), "one anchor a version, and the same for all"

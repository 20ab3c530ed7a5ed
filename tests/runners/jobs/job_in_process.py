"""A job of three nodes in one process: real cores, torch, tensors and server. Tests say what the other agents would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from bus.nats import NatsBus
from bus.port import Interest, Receipt, Start
from bus.server import EmbeddedServer
from bus.tensors import TensorBus
from runners.jobs import training
from runners.jobs.spec import JobSpec
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import Assignment, RoundApplied, RoundClosed, Share
from schemas.wire import Message, seal

M = TypeVar("M", bound=Message)
NAMES = ("a", "b", "c")
PATIENCE = 60.0  # seconds: far more than any of this takes on a busy machine

WORKLOAD = """
import torch
from torch import nn

class Square:
    def model(self):
        torch.seed()  # no two nodes begin with the same bits
        return nn.Sequential(nn.Linear({width}, {width}), nn.BatchNorm1d({width}))
    def samples(self, split):
        return [torch.linspace(-1, 1, {width}) * n for n in range(16)]
    def loss(self, model, batch):
        return (model(batch) - batch.flip(1)).square().mean()
    def validate(self, model):
        return 0.5

workload = Square()
"""


class Story:
    """What was said of the job."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self._moved = asyncio.Event()

    def hear(self, message: Message, receipt: Receipt | None) -> None:
        """The subscription's handler."""
        self.heard.append(message)
        self._moved.set()
        if receipt is not None:
            receipt.ack()

    def of(self, kind: type[M]) -> list[M]:
        """All messages of a type."""
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, count: int, kind: type[Message], **fields: object) -> None:
        """Wait for so many messages of a type with these values."""
        async with asyncio.timeout(PATIENCE):
            while sum(all(getattr(m, k) == v for k, v in fields.items()) for m in self.of(kind)) < count:
                self._moved.clear()
                await self._moved.wait()

    def one_anchor(self, rounds: int) -> dict[int, RoundClosed]:
        """All rounds, which closed once each, and gave each version the same bits on every node."""
        closed = {message.round: message for message in self.of(RoundClosed)}
        assert sorted(closed) == list(range(1, rounds + 1))
        digests = sorted({(m.version, m.digest) for m in self.of(RoundApplied) if m.version > 0})
        assert [version for version, _ in digests] == list(range(1, rounds + 1)), "one anchor a version, the same for all"
        return closed


class Job:
    """The nodes, the story, and what is said for desk, selector and batch controller."""

    def __init__(self, bus: NatsBus, url: str, folder: Path, request: JobRequest) -> None:
        self.story = Story()
        self.stops = {name: asyncio.Event() for name in NAMES}
        self.running: dict[str, asyncio.Future[None]] = {}
        self._bus, self._url, self._folder, self._request = bus, url, folder, request
        self._said = 0

    async def say(self, message: Message) -> None:
        """In another agent's place."""
        self._said += 1
        await self._bus.publish(seal(message, id=f"desk:1:{self._said}", cause="", at=0.0, source="desk"))

    async def begin(self, *kinds: type[Message], deadline_seconds: float) -> None:
        """Listen for these kinds, say that the job runs and with which shares, and start its nodes."""
        listening = [Interest(kind, {"job": "j"}) for kind in kinds]
        await self._bus.subscribe(listening, self.story.hear, start=Start.ALL)
        share = Share(microbatch=4, local_steps=3, encoding="int8")
        await self.say(
            JobState(
                job="j", version=1, state=JobPhase.RUNNING, reason="", round=0, rounds=self._request.rounds,
                request=self._request, submitted_at=0.0,
            )
        )  # fmt: skip
        await self.say(
            Assignment(
                job="j", version=1, roster_version=1, shares=dict.fromkeys(NAMES, share), average_encoding="int8",
                round_seconds=1.0, deadline_seconds=deadline_seconds, strategy="fixed", reason="",
            )
        )  # fmt: skip
        self.running = {name: asyncio.ensure_future(self._node(name)) for name in NAMES}

    async def _node(self, name: str) -> None:
        spec = JobSpec(job="j", node=name, server=self._url, request=self._request, app_dir=str(self._folder), device="cpu")
        bus = await NatsBus.connect(self._url, source=f"trainer/j/{name}")
        tensors = await TensorBus.connect(self._url, job="j", node=name)
        await training._take_part(spec, bus, tensors, self.stops[name])
        await tensors.close()
        await bus.close()

    async def end(self) -> None:
        """Have all nodes stop."""
        for stop in self.stops.values():
            stop.set()
        await asyncio.gather(*self.running.values())


@asynccontextmanager
async def job_in_process(folder: Path, workload: str, width: int, **asked: object) -> AsyncIterator[Job]:
    """A server, and a job of a model of `width` inputs on it, which `begin` begins."""
    (folder / f"{workload}.py").write_text(WORKLOAD.format(width=width))
    usual = {"kind": "train", "workload": f"{workload}:workload", "checkpoint_every": 0, "verify_every": 0}
    request = msgspec.convert(usual | asked, JobRequest)
    async with EmbeddedServer(folder / "store") as server:
        bus = await NatsBus.connect(server.url, source="desk")
        yield Job(bus, server.url, folder, request)
        await bus.close()

"""A newcomer takes the anchor from whoever has it; a donor that can't help doesn't end its process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agents.inputs import Result
from agents.trainer import works
from bus.nats import NatsBus
from bus.server import EmbeddedServer
from bus.tensors import TensorBus
from runners.jobs.averages import Averages
from runners.jobs.names import checkpoint_name
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from runners.jobs.tasks import TorchThread
from runners.jobs.trainer_works import TrainerWorks
from schemas.jobs import JobRequest

PATIENCE = 30.0  # seconds: far more than anything here takes on a busy machine

WORKLOAD = """
import torch
from torch import nn

class Line:
    def __init__(self, inputs):
        self.inputs = inputs
    def model(self):
        return nn.Linear(self.inputs, 1)
    def samples(self, split):
        return [torch.zeros(self.inputs)]
    def loss(self, model, batch):
        return model(batch).square().mean()
    def validate(self, model):
        return 0.5

workload, other = Line(4), Line(5)
"""


def session(app: Path, node: str, workload: str, seed: int) -> Session:
    request = JobRequest(kind="train", workload=f"lines_of_two_lengths:{workload}", seed=seed)
    return Session.load(JobSpec(job="j", node=node, server="", request=request, app_dir=str(app), device="cpu"))


class Newcomer:
    """The works of the newcomer `a`; `b` has a model of another shape, `c` the job's."""

    def __init__(self, sessions: dict[str, Session], bus: NatsBus, buses: dict[str, TensorBus]) -> None:
        self.sessions = sessions
        self.bus = bus
        self._said: asyncio.Queue[Result | BaseException] = asyncio.Queue()
        averages = Averages(buses["a"], "a")
        self.works = TrainerWorks(sessions["a"], bus, buses["a"], averages, TorchThread(), self._said.put_nowait)

    async def catch_up(self, *donors: str) -> Result | BaseException:
        """What comes of it: a result, or what would end the process."""
        self.works.start("catch_up", works.CatchUp(version=0, donors=donors), self._said.put_nowait)
        return await asyncio.wait_for(self._said.get(), PATIENCE)


@pytest.fixture
async def newcomer(tmp_path: Path) -> AsyncIterator[Newcomer]:
    (tmp_path / "lines_of_two_lengths.py").write_text(WORKLOAD)
    sessions = {
        node: session(tmp_path, node, workload, seed)
        for node, workload, seed in (("a", "workload", 1), ("b", "other", 2), ("c", "workload", 3))
    }
    async with EmbeddedServer(tmp_path / "store") as server:
        bus = await NatsBus.connect(server.url, source="trainer/j/a")
        buses = {node: await TensorBus.connect(server.url, job="j", node=node) for node in sessions}
        for node, each in buses.items():
            each.provide(providing(sessions[node]))
        made = Newcomer(sessions, bus, buses)
        yield made
        await made.works.close()
        for each in buses.values():
            await each.close()
        await bus.close()


def providing(donor: Session) -> Callable[[str], Awaitable[tuple[str, bytes] | None]]:
    async def provide(kind: str) -> tuple[str, bytes] | None:
        version, data = donor.snapshot()
        return str(version), data

    return provide


async def test_a_donor_with_another_model_is_passed_over(newcomer: Newcomer) -> None:
    done = await newcomer.catch_up("b", "c")
    assert isinstance(done, works.AnchorFetched)
    assert done.donor == "c"
    assert newcomer.sessions["a"].digest == newcomer.sessions["c"].digest


async def test_a_checkpoint_of_another_model_is_told_of(newcomer: Newcomer) -> None:
    await newcomer.bus.put_object(checkpoint_name("j"), newcomer.sessions["b"].checkpoint())
    done = await newcomer.catch_up("b")
    assert isinstance(done, works.FetchFailed)
    assert done.reason.count("'weight' of shape") == 2
    assert "same workload source" in done.reason

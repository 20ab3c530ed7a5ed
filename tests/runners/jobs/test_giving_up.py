"""Local steps that are given up while their difference is being encoded: what earlier encodings owed isn't lost with it."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.trainer import works
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from runners.jobs.tasks import TorchThread
from runners.jobs.trainer_works import TrainerWorks
from schemas.jobs import JobRequest

WORKLOAD = """
import torch
from torch import nn

class Line:
    def model(self):
        torch.manual_seed(3)
        return nn.Linear(40, 1)
    def samples(self, split):
        return [torch.linspace(0.0, 1.0, 40) ** place for place in range(1, 9)]
    def loss(self, model, batch):
        return (model(batch) - 1.0).square().mean()
    def validate(self, model):
        return 0.5

workload = Line()
"""
ROUND = works.LocalRound(round=1, microbatch=4, steps=2, encoding="int4", streams=1)


class Held(Session):
    """A session that waits before it encodes until it is let."""

    begun: Callable[[], None]
    go_on: threading.Event

    def difference(self, encoding: Any, round_: int = 0) -> bytes:
        """As the session's, once it may."""
        self.begun()
        self.go_on.wait()
        return super().difference(encoding, round_)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    (tmp_path / "lines_given_up.py").write_text(WORKLOAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    request = JobRequest(kind="train", workload="lines_given_up:workload")
    spec = JobSpec(job="j", node="a", server="", request=request, app_dir=str(tmp_path), device="cpu")
    loaded = Held.load(spec)
    assert isinstance(loaded, Held)
    loaded.go_on = threading.Event()
    return loaded


async def test_a_difference_that_is_given_up_while_it_is_encoded_is_owed(session: Held) -> None:
    loop, encoding, kept = asyncio.get_running_loop(), asyncio.Event(), []
    session.begun = lambda: loop.call_soon_threadsafe(encoding.set)

    async def set_streams(count: int) -> None:
        pass

    tensors = SimpleNamespace(set_streams=set_streams, keep=lambda *what: kept.append(what))
    thread = TorchThread()
    doing = TrainerWorks(*cast(Any, (session, None, tensors, SimpleNamespace(), thread, pytest.fail)))
    doing.start("steps", ROUND, lambda result: pytest.fail("it was given up"))
    await encoding.wait()
    taken_back = asyncio.Event()
    take_back = session.take_back

    def noted(*what: Any) -> None:
        take_back(*what)
        loop.call_soon_threadsafe(taken_back.set)

    session.take_back = noted  # type: ignore[method-assign]
    doing.stop("steps", "out of the roster")
    await asyncio.sleep(0)  # the task hears of it while the thread goes on
    delta = session.trainer.delta(session.anchor)
    wanted = delta[slice(0, delta.numel())].clone()
    session.go_on.set()
    await taken_back.wait()
    assert wanted.abs().max() > 0
    assert kept == []
    assert (session.owed.residual - wanted).abs().max() < 1e-6
    await doing.close()

"""What sessions make besides the model: no second vector of its length where one will do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from agents.reducer.works import Part
from runners.jobs.pieces import Averaging
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from runners.jobs.vectors import CHUNK
from schemas.aggregation import Aggregation
from schemas.jobs import JobRequest
from schemas.shards import AverageShard, OrderedPart

WORK = """
import torch
from torch import nn

class Wide:
    def model(self):
        return nn.Sequential(nn.Linear(600, 700), nn.BatchNorm1d(700), nn.Linear(700, 600))

    def samples(self, split):
        return [torch.full((600,), i / 8) for i in range(16)]

    def loss(self, model, batch):
        return (model(batch) - batch.sin()).square().mean()

    def validate(self, model):
        return 0.5

workload = Wide()
"""
# Elements from which an allocation counts: no chunk has as many, doubled or in float64, and every layer has more.
LARGE = 4 * CHUNK


class Made(TorchDispatchMode):
    """Counts the large tensors that torch makes memory for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.large: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)}
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() not in known and storage.nbytes() >= 4 * LARGE:
                self.large.append(str(func))
        return result


def made(work: Callable[..., Any], *args: Any) -> tuple[int, Any]:
    with Made() as counted:
        result = work(*args)
    return len(counted.large), result


def load(app: Path, **request: Any) -> Session:
    (app / "wide_work.py").write_text(WORK)
    asked = JobRequest(kind="train", workload="wide_work:workload", rounds=9, **request)
    session = Session.load(JobSpec(job="j", node="a", server="", request=asked, app_dir=str(app), device="cpu"))
    assert session.anchor.layout.count > 3 * LARGE
    return session


@pytest.mark.parametrize(
    "request_", [{}, {"outer": "nesterov"}, {"sync": "overlap", "fragments": 1}, {"sync": "step"}], ids=str
)
def test_a_difference_is_no_vector_of_its_own(tmp_path: Path, request_: dict[str, Any]) -> None:
    """Not where it travels while the model goes on, either."""
    session = load(tmp_path, **request_)
    session.begin_steps(1)
    session.step(8)
    large, _ = made(session.difference, "int8", 1)
    assert large == 0


@pytest.mark.parametrize(
    "request_", [{}, {"sync": "overlap", "fragments": 1}, {"sync": "overlap", "fragments": 3}], ids=str
)
def test_the_anchor_and_the_model_move_where_they_are(tmp_path: Path, request_: dict[str, Any]) -> None:
    session = load(tmp_path, **request_)
    session.begin_steps(1)
    session.step(8)
    payload = session.difference("int8", 1)
    session.begin_steps(2)
    session.step(8)
    before = session.anchor.values
    large, digest = made(session.apply, 1, payload)
    assert digest == session.digest
    assert large == 0
    assert session.anchor.values is before


@pytest.mark.parametrize(("method", "results"), [("mean", 0), ("clip", 0), ("trimmed", 1)])
def test_contributions_stay_encoded_while_they_are_averaged(tmp_path: Path, method: Aggregation, results: int) -> None:
    """What is looked at twice and dear to compute is kept: the result, not the contributions."""
    session = load(tmp_path)
    session.begin_steps(1)
    session.step(8)
    payload = session.difference("int8", 1)

    def average() -> bytes:
        gathered = [(Part(node=node, round=1, weight=0.2, steps=1), session.decoded(payload, 1)) for node in "abcde"]
        assert not any(session.is_faint(delta, 1) for _, delta in gathered)
        return session.average(gathered, method, "int8", 1)[0]

    large, _ = made(average)
    assert large == results


@pytest.mark.parametrize(
    "request_", [{"outer": "average"}, {"outer": "nesterov"}, {"sync": "overlap", "fragments": 1}], ids=str
)
def test_pieces_are_no_vectors_of_their_own(tmp_path: Path, request_: dict[str, Any]) -> None:
    """Not those that are sent, nor those that are collected, averaged, or put together again."""
    session = load(tmp_path, reducers=4, **request_)
    assert session.cut == 4
    session.begin_steps(1)
    session.step(8)
    if request_.get("outer") == "nesterov":
        session.anchor = replace(session.anchor, momentum=torch.zeros(session.anchor.layout.parameters))
    large, payloads = made(session.difference_in_pieces, "int8", 1)
    assert large == 0
    pieces = session.pieces_of(1)

    def average(mine: Sequence[int]) -> tuple[AverageShard, bytes]:
        each = [pieces.decoded(payloads[piece], piece) for piece in mine]
        for piece, values in zip(mine, each, strict=True):
            pieces.measure(values, piece, session.anchor.values)
        gathered = [(OrderedPart(node=node, round=1, digest="", weight=0.5), each) for node in "ab"]
        payload = pieces.average(gathered, mine, Averaging("mean", "int8", 0.5), session.owed_average).payload
        return AverageShard(pieces=tuple(mine), key="", size=len(payload), digest="", holders=()), payload

    large, shards = made(lambda: [average([0, 1]), average([2, 3])])
    assert large == 0
    before = session.anchor.values
    large, digest = made(session.apply, 1, shards)
    assert (large, digest) == (0, session.digest)
    assert session.anchor.values is before


def test_gradients_are_gone_between_steps(tmp_path: Path) -> None:
    session = load(tmp_path)
    session.begin_steps(1)
    session.step(8)
    assert all(parameter.grad is None for parameter in session.trainer.model.parameters())

"""A job's tensors on one node: what is sent of a model with statistics, and what is refused."""

from pathlib import Path

import pytest
import torch

from runners.jobs.codecs import decode, encode, encoded_size
from runners.jobs.pieces import WrongShape
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from runners.jobs.vectors import whole
from schemas.jobs import Encoding, JobRequest

NORMED = """
import torch
from torch import nn

class Normed:
    def model(self):
        return nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Linear(64, 8))

    def samples(self, split):
        return [torch.full((4,), i / 16) for i in range(-16, 16)]

    def loss(self, model, batch):
        return (model(batch) - batch.repeat(1, 2)).square().mean()

    def validate(self, model):
        return float(self.loss(model, torch.stack(self.samples("validation"))))

    def optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=0.02)

workload = Normed()
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "normed_work.py").write_text(NORMED)
    request = JobRequest(kind="train", workload="normed_work:workload")
    return Session.load(JobSpec(job="j", node="a", server="", request=request, app_dir=str(tmp_path), device="cpu"))


def test_topk_sends_a_models_statistics_whole(session: Session) -> None:
    layout = session.anchor.layout
    session.begin_steps()
    for _ in range(3):
        session.step(8)
    true = whole(session.trainer.delta(session.anchor))
    payload = session.difference("topk")
    assert len(payload) == encoded_size(layout.count, "topk", layout.count - layout.parameters)
    sent = decode(payload)
    statistics = true[layout.parameters :]
    assert statistics.numel() == 128
    assert torch.allclose(sent[layout.parameters :], statistics, rtol=0, atol=float(statistics.abs().max()) / 127)
    assert int((sent[: layout.parameters] != 0).sum()) <= layout.parameters // 32 + 1
    assert torch.allclose(sent + session.owed.residual, true, rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoding", ["int4", "topk"])
def test_a_difference_of_another_length_is_refused_by_its_header(session: Session, encoding: Encoding) -> None:
    assert decode(encode(torch.zeros(session.anchor.layout.count), encoding)).shape == session.anchor.values.shape
    with pytest.raises(WrongShape):
        session.decoded(encode(torch.zeros(session.anchor.layout.count + 1), encoding))

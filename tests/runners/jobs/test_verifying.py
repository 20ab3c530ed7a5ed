"""The gradient that all nodes compute: the same on every sound one, and nothing else notices."""

from pathlib import Path

import msgspec
import pytest
import torch

from agents.reducer.arithmetic import COARSE, TOLERANCES, deviation
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from runners.jobs.verifying import BLOCKS, blocks, digest_of
from schemas.jobs import JobRequest
from schemas.verification import Fingerprint, GradientVerified

EXACT = TOLERANCES["float32"]
MOODY = """
import torch
from torch import nn

class Moody:
    def model(self):
        return nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 8))

    def samples(self, split):
        return [torch.full((4,), i / 16) for i in range(-16, 16)]

    def loss(self, model, batch):
        return (model(batch) - batch.repeat(1, 2)).square().mean()

    def validate(self, model):
        return 0.0

    def optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=0.02)

workload = Moody()
"""


def session(folder: Path, node: str, **asked: object) -> Session:
    """A node's part of a job with dropout and moving statistics."""
    (folder / "moody_work.py").write_text(MOODY)
    request = msgspec.convert({"kind": "train", "workload": "moody_work:workload"} | asked, JobRequest)
    return Session.load(JobSpec(job="j", node=node, server="", request=request, app_dir=str(folder), device="cpu"))


def verified(one: Session, version: int = 0) -> Fingerprint:
    found = one.verify(version)
    assert found is not None
    return found


def report(found: Fingerprint) -> GradientVerified:
    return GradientVerified(job="j", node="a", version=0, gradient=found)


def apart(one: Fingerprint, other: Fingerprint) -> float:
    assert one.batch == other.batch
    return deviation(report(one), [report(other)] * 3)


def test_sound_nodes_get_the_same_whatever_they_are_at(tmp_path: Path) -> None:
    a, b = session(tmp_path, "a"), session(tmp_path, "b")
    b.begin_steps()
    for _ in range(3):
        b.step(8)  # b's working model, optimizer and generators are elsewhere by now
    mine, theirs = verified(a), verified(b)
    assert (mine.norms, mine.signed) == (theirs.norms, theirs.signed)
    assert (mine.loss, mine.batch, mine.precision) == (theirs.loss, theirs.batch, "float32")
    assert len(mine.norms) == BLOCKS
    assert max(mine.norms) > 0


@pytest.mark.parametrize("sync", ["round", "step"])
def test_what_is_under_way_doesnt_notice(tmp_path: Path, sync: str) -> None:
    a, b = session(tmp_path, "a", sync=sync), session(tmp_path, "a", sync=sync)
    for one in (a, b):
        torch.manual_seed(5)
        one.begin_steps()
        one.step(8)
        if one is b:
            verified(b)
        one.step(8)
    assert a.difference("float32") == b.difference("float32")


def test_a_weight_that_flipped_shows(tmp_path: Path) -> None:
    a, b = session(tmp_path, "a"), session(tmp_path, "b")
    b.anchor.values.view(torch.int32)[7] ^= 1 << 25
    assert apart(verified(b), verified(a)) > EXACT
    b.anchor.values[7] = torch.nan
    assert verified(b).loss is None


def test_bfloat16_is_within_its_tolerance(tmp_path: Path) -> None:
    fine, coarse = session(tmp_path, "a"), session(tmp_path, "b", precision="bfloat16")
    found = verified(coarse)
    assert found.precision == "bfloat16"
    assert 0 < apart(found, verified(fine)) < COARSE


def test_an_anchor_that_moved_on_is_not_verified(tmp_path: Path) -> None:
    assert session(tmp_path, "a").verify(3) is None


def test_a_model_that_cant_do_it_trains_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = session(tmp_path, "a")
    one.trainer.model.register_forward_pre_hook(_refuse)
    assert one.verify(0) is None
    assert "arithmetic can't be verified here (RuntimeError: not in evaluation mode)" in capsys.readouterr().out
    assert one.trainer.model.training
    one.begin_steps()
    one.step(8)


def _refuse(model: torch.nn.Module, _: object) -> None:
    if not model.training:
        raise RuntimeError("not in evaluation mode")


def test_a_batch_is_known_by_its_tensors() -> None:
    batch = {"x": torch.ones(2, 3), "y": [torch.zeros(2, dtype=torch.int64), "a label"]}
    same = {"y": [torch.zeros(2, dtype=torch.int64), "another"], "x": torch.ones(2, 3)}
    assert digest_of(batch) == digest_of(same)
    assert digest_of(batch) != digest_of(batch | {"x": torch.ones(3, 2)})


@pytest.mark.parametrize("elements", [1, 31, 1000])
def test_a_fingerprint_has_every_element_in_it(elements: int) -> None:
    flat = torch.linspace(1.0, 2.0, elements)
    norms, signed = blocks(flat)
    assert sum(norm**2 for norm in norms) == pytest.approx(float(flat.double().square().sum()))
    for place in {0, elements // 2, elements - 1}:
        turned = flat.clone()
        turned[place] *= -1
        assert blocks(turned)[1] != signed

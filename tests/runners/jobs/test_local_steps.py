"""Local steps learn, can be reproduced, and stop at a loss that is no number."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runners.jobs.anchor import weighted_average
from runners.jobs.local_steps import DeviceError, LocalTrainer, NonFiniteLoss, pick_device, to_device
from runners.jobs.moving import Outer, outer_step, step
from runners.jobs.vectors import whole
from runners.jobs.workload import BoundWorkload, bind

CPU = torch.device("cpu")


class Line:
    """y = 3 x - 1, learned from 64 points by a linear layer behind dropout and batch normalisation."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))

    def samples(self, split: str) -> Any:
        return [(torch.tensor([x / 32]), torch.tensor([3 * x / 32 - 1])) for x in range(-32, 32)]

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        error: Tensor = model(batch[0]) - batch[1]
        return (error**2).mean()

    def validate(self, model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        points = self.samples("validation")
        return float(self.loss(model, [torch.stack(column) for column in zip(*points, strict=True)]))

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.02)


def line() -> BoundWorkload:
    return bind(Line(), "tests:line")


def test_steps_learn_and_are_counted() -> None:
    trainer = LocalTrainer(line(), seed=0, node="a", device=CPU)
    before = trainer.validate()
    results = [trainer.step(16) for _ in range(60)]
    assert trainer.validate() < before / 5
    assert trainer.model.training
    assert all(result.samples == 16 and result.seconds > 0 for result in results)
    assert trainer.steps == 60
    assert trainer.sampler.cursor.epoch * 64 + trainer.sampler.cursor.position == 60 * 16


def test_a_seed_and_a_name_make_a_run() -> None:
    def run(node: str) -> list[float]:
        trainer = LocalTrainer(line(), seed=5, node=node, device=CPU)
        return [trainer.step(4).loss for _ in range(5)]

    assert run("a") == run("a")
    assert run("a") != run("b")


def test_nodes_begin_with_the_same_model() -> None:
    trainers = [LocalTrainer(line(), seed=5, node=node, device=CPU) for node in "ab"]
    assert len({trainer.anchor().digest() for trainer in trainers}) == 1


def test_two_nodes_learn_together_through_an_anchor() -> None:
    nodes = {name: LocalTrainer(line(), seed=1, node=name, device=CPU) for name in ("a", "b")}
    anchor = nodes["a"].anchor()
    before = nodes["a"].validate()
    for _ in range(8):
        contributions = []
        for steps, trainer in zip((6, 2), nodes.values(), strict=True):
            trainer.load(anchor)
            samples = sum(trainer.step(8).samples for _ in range(steps))
            contributions.append((float(samples), whole(trainer.delta(anchor))))
        anchor = outer_step(anchor, weighted_average(contributions))
    nodes["b"].load(anchor)
    assert nodes["b"].validate() < before / 3
    assert not whole(nodes["b"].delta(anchor)).any()


def test_rebasing_keeps_the_steps_taken_so_far() -> None:
    trainer = LocalTrainer(line(), seed=0, node="a", device=CPU)
    old = trainer.anchor()
    for _ in range(3):
        trainer.step(8)
    parameters = old.layout.parameters
    taken = whole(trainer.delta(old))
    with trainer.following(old.layout) as follow:
        new = step(old, torch.full((old.layout.count,), 0.5), Outer(), [(0, old.layout.count)], follow)
    kept = whole(trainer.delta(new))
    assert torch.allclose(kept[:parameters], taken[:parameters], atol=1e-6)
    assert not kept[parameters:].any()
    trainer.step(8)


class Diverging(Line):
    """Its loss is NaN from the third batch on."""

    batches = 0

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        self.batches += 1
        return super().loss(model, batch) * (float("nan") if self.batches > 2 else 1.0)


def test_a_loss_that_is_no_number_changes_nothing_and_is_reported() -> None:
    trainer = LocalTrainer(bind(Diverging(), "tests:diverging"), seed=0, node="a", device=CPU)
    trainer.step(8)
    trainer.step(8)
    before = trainer.model[3].weight.detach().clone()  # type: ignore[index]
    with pytest.raises(NonFiniteLoss, match="learning rate") as caught:
        trainer.step(8)
    assert caught.value.step == 2
    assert torch.equal(trainer.model[3].weight, before)  # type: ignore[index]


class AtOnce(Line):
    """Its data comes a batch at a time."""

    asked: list[list[int]]

    def samples(self, split: str) -> Any:
        points = super().samples(split)
        asked = self.asked = []

        class Points(list[Any]):
            def __getitems__(self, indices: list[int]) -> list[Any]:
                asked.append(indices)
                return [self[index] for index in indices]

        return Points(points)


def test_datasets_that_fetch_a_batch_at_once_may() -> None:
    workload = AtOnce()
    trainer = LocalTrainer(bind(workload, "tests:at_once"), seed=0, node="a", device=CPU)
    trainer.step(8)
    plain = LocalTrainer(line(), seed=0, node="a", device=CPU)
    plain.step(8)
    assert [len(indices) for indices in workload.asked] == [8]
    assert torch.equal(trainer.anchor().values, plain.anchor().values)


class Empty(Line):
    """No training data."""

    def samples(self, split: str) -> Any:
        return []


def test_no_data_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="without samples"):
        LocalTrainer(bind(Empty(), "tests:empty"), seed=0, node="a", device=CPU)


Pair = namedtuple("Pair", "x y")


def test_batches_keep_their_form_on_the_way_to_a_device() -> None:
    meta = torch.device("meta")
    one = torch.ones(1)
    moved = to_device({"t": (one, [one]), "pair": Pair(one, 2), "text": "as it is"}, meta)
    assert moved["t"][0].device == moved["t"][1][0].device == moved["pair"].x.device == meta
    assert isinstance(moved["t"], tuple)
    assert isinstance(moved["t"][1], list)
    assert isinstance(moved["pair"], Pair)
    assert (moved["pair"].y, moved["text"]) == (2, "as it is")


def test_devices_are_picked_and_checked() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("cuda:99", "abacus"):
        with pytest.raises(DeviceError, match="shoal doctor"):
            pick_device(wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_code_learns_on_cuda() -> None:
    trainer = LocalTrainer(line(), seed=0, node="a", device=pick_device("cuda"))
    anchor = trainer.anchor()
    losses = [trainer.step(16).loss for _ in range(60)]
    assert losses[-1] < losses[0] / 3
    delta = whole(trainer.delta(anchor))
    assert delta.device.type == "cpu"
    trainer.load(outer_step(anchor, delta))
    assert trainer.device.type == "cuda"

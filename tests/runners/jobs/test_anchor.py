"""The anchor is one vector of all that is trained, and outer steps are those of the papers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from runners.jobs.anchor import Anchor, AnchorError, weighted_average
from runners.jobs.layout import Layout, LayoutMismatch
from runners.jobs.moving import outer_step
from schemas.jobs import OuterStep


def model_with_everything() -> Any:
    """Tied weights, a frozen parameter, running statistics, an integer buffer and one that no state dict keeps."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    model[3].bias.requires_grad_(False)
    model.register_buffer("derived", torch.ones(3), persistent=False)
    return model


def test_the_vector_holds_what_is_trained_once_and_the_rest_is_kept_aside() -> None:
    model = model_with_everything()
    anchor = Anchor.from_model(model)
    names = [slot.name for slot in anchor.layout.slots]
    assert names == ["0.weight", "1.weight", "1.bias", "3.weight", "1.running_mean", "1.running_var"]
    assert anchor.layout.parameters == 16 + 4 + 4 + 8
    assert anchor.values.shape == (anchor.layout.parameters + 8,)
    assert sorted(anchor.constants) == ["1.num_batches_tracked", "3.bias"]


def test_a_model_and_its_anchor_go_back_and_forth() -> None:
    model, other = model_with_everything(), model_with_everything()
    with torch.no_grad():
        model[3].bias.fill_(7.0)
        model[1].num_batches_tracked.fill_(5)
    anchor = Anchor.from_model(model)
    anchor.load_into(other)
    assert float(other[3].bias.detach().max()) < 7.0
    assert torch.equal(other[0].weight, model[0].weight)
    anchor.load_into(other, constants=True)
    assert Anchor.from_model(other).digest() == anchor.digest()
    assert int(other[1].num_batches_tracked) == 5
    assert torch.equal(anchor.layout.flatten(other), anchor.values)


def test_the_anchor_does_not_share_memory_with_the_model() -> None:
    model = nn.Linear(2, 1)
    anchor = Anchor.from_model(model)
    before = anchor.digest()
    with torch.no_grad():
        model.weight.add_(1.0)
    assert anchor.digest() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_keep_their_own_dtype(dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2).to(dtype)
    anchor = outer_step(Anchor.from_model(model), torch.ones(8))
    before = model.weight.detach().clone()
    anchor.load_into(model)
    assert anchor.values.dtype == torch.float32
    assert model.weight.dtype == dtype
    assert torch.allclose(model.weight, before + 1, atol=0.02)


def test_the_digest_sees_every_part() -> None:
    anchor = Anchor.from_model(model_with_everything())
    flipped = anchor.values.clone()
    flipped.view(torch.int32)[-1] ^= 1
    constants = dict(anchor.constants) | {"1.num_batches_tracked": torch.tensor(9)}
    variants = [
        anchor,
        replace(anchor, version=1),
        replace(anchor, values=flipped),
        replace(anchor, momentum=torch.zeros(anchor.layout.parameters)),
        replace(anchor, constants=constants),
        Anchor.from_model(nn.Linear(4, 4)),
    ]
    assert len({variant.digest() for variant in variants}) == len(variants)
    assert replace(anchor, values=anchor.values.clone()).digest() == anchor.digest()


def test_averaging_all_differences_gives_the_mean_of_the_models() -> None:
    start = Anchor.from_model(nn.Linear(3, 2))
    first, second = start.values + 1.0, start.values + 4.0
    after = outer_step(start, weighted_average([(10, first - start.values), (20, second - start.values)]))
    assert after.version == 1
    assert torch.allclose(after.values, start.values + 3.0)
    assert after.momentum is None


def test_nesterov_is_that_of_torch_on_the_opposite_gradient() -> None:
    model = nn.Linear(5, 3)
    anchor = Anchor.from_model(model)
    reference = nn.Parameter(anchor.values.clone())
    sgd = torch.optim.SGD([reference], lr=0.7, momentum=0.9, nesterov=True)
    for seed in range(4):
        delta = torch.randn(18, generator=torch.Generator().manual_seed(seed))
        reference.grad = -delta
        sgd.step()
        anchor = outer_step(anchor, delta, "nesterov", lr=0.7, momentum=0.9)
        assert torch.allclose(anchor.values, reference.detach(), atol=1e-6)
    assert anchor.momentum is not None


@pytest.mark.parametrize("kind", ["average", "nesterov"])
def test_an_outer_step_leaves_the_version_before_as_it_was(kind: OuterStep) -> None:
    first = outer_step(Anchor.from_model(model_with_everything()), torch.ones(40), kind)
    before = first.digest()
    outer_step(first, torch.ones(40), kind)
    assert first.digest() == before


def test_statistics_take_no_momentum_and_variances_stay_positive() -> None:
    anchor = Anchor.from_model(nn.BatchNorm1d(1))  # weight, bias, running mean 0, running variance 1
    delta = torch.tensor([0.0, 0.0, 2.0, -5.0])
    for _ in range(2):
        anchor = outer_step(anchor, delta, "nesterov", lr=0.5, momentum=0.9)
    assert anchor.values[2:].tolist() == [4.0, 0.0]


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0]], ids=str)
def test_weights_that_make_no_average_are_refused(weights: list[float]) -> None:
    with pytest.raises(AnchorError):
        weighted_average([(weight, torch.ones(2)) for weight in weights])


def test_differences_of_another_shape_are_refused() -> None:
    with pytest.raises(AnchorError, match="another workload"):
        outer_step(Anchor.from_model(nn.Linear(3, 2)), torch.ones(7))
    with pytest.raises(AnchorError, match="another workload"):
        weighted_average([(1, torch.ones(3)), (1, torch.ones(4))])


def test_another_model_is_named_by_the_tensor_that_differs() -> None:
    anchor = Anchor.from_model(nn.Linear(3, 2))
    with pytest.raises(LayoutMismatch, match="'weight' of shape \\(2, 4\\)"):
        anchor.load_into(nn.Linear(4, 2))
    with pytest.raises(LayoutMismatch, match="1 tensors where there were 2"):
        anchor.load_into(nn.Linear(3, 2, bias=False))


def test_models_without_anything_to_train_are_refused() -> None:
    for model in (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(3, affine=False)):
        with pytest.raises(LayoutMismatch, match="no parameter to train"):
            Layout.of(model)
    with pytest.raises(LayoutMismatch, match="complex"):
        Layout.of(nn.Linear(2, 2, dtype=torch.complex64))

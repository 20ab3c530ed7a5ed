"""Robust averages: the order doesn't matter, equal inputs come back, and one wild input moves little."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runners.jobs import robust
from runners.jobs.vectors import CHUNK, Combination, Vector, whole

Rule = Callable[[Sequence[Tensor]], Vector]


def by_krum(deltas: Sequence[Tensor]) -> Vector:
    chosen = robust.krum(deltas, (len(deltas) - 3) // 2)
    return Combination([1 / len(chosen)] * len(chosen), [deltas[place] for place in chosen])


RULES: dict[str, Rule] = {
    "trimmed": lambda deltas: robust.TrimmedMean(deltas, 1),
    "median": robust.median,
    "krum": by_krum,
    "centered_clip": robust.centered_clip,
    "mean": lambda deltas: robust.clipped_mean([1.0] * len(deltas), deltas, [1.0] * len(deltas)),
}
EVERY = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
ROBUST = pytest.mark.parametrize("name", [name for name in RULES if name != "mean"])
WILD = st.sampled_from([1e3, -1e12, 1e30, -8e37])


def some(seed: int, count: int, elements: int = 7) -> list[Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(elements, generator=made) for _ in range(count)]


@EVERY
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(5, 9), order=st.randoms(use_true_random=False))
def test_the_order_doesnt_matter(rule: Rule, seed: int, count: int, order: object) -> None:
    deltas = some(seed, count)
    shuffled = list(deltas)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    torch.testing.assert_close(whole(rule(shuffled)), whole(rule(deltas)))


@EVERY
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(5, 9))
def test_equal_inputs_come_back(rule: Rule, seed: int, count: int) -> None:
    (delta,) = some(seed, 1)
    torch.testing.assert_close(whole(rule([delta.clone() for _ in range(count)])), delta)


@ROBUST
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(5, 9), wild=WILD, place=st.integers(0, 8))
def test_one_wild_input_moves_little(name: str, seed: int, count: int, wild: float, place: int) -> None:
    deltas = some(seed, count)
    good = [delta for index, delta in enumerate(deltas) if index != place % count]
    deltas[place % count] = torch.full((7,), wild)
    result = whole(RULES[name](deltas))
    least, most = torch.stack(good).amin(0), torch.stack(good).amax(0)
    slack = 1e-5
    if name == "centered_clip":  # the median's bound, and as far as the steps may go from there
        centre = whole(robust.median(deltas))
        distances = sorted(robust.norms(deltas, centre))
        slack += robust.CENTRING_STEPS * distances[count // 2] / 1.0
        assert float((result - centre).norm()) <= slack
    assert bool((result >= least - slack).all())
    assert bool((result <= most + slack).all())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), wild=WILD)
def test_krum_leaves_as_many_liars_out_as_it_tolerates(seed: int, wild: float) -> None:
    deltas = [*some(seed, 5), torch.full((7,), wild), torch.full((7,), wild)]
    assert robust.krum(deltas, 2) == sorted(set(robust.krum(deltas, 2)) & set(range(5)))
    assert len(robust.krum(deltas, 2)) == 3


def test_trimming_and_median_by_hand() -> None:
    deltas = [torch.tensor([value, 0.0]) for value in (1.0, 2.0, 3.0, 100.0)]
    assert whole(robust.TrimmedMean(deltas, 1)).tolist() == [2.5, 0.0]
    assert whole(robust.median(deltas)).tolist() == [2.5, 0.0]
    assert whole(robust.median(deltas[1:])).tolist() == [3.0, 0.0]


def test_clipping_shortens_and_keeps_the_weight() -> None:
    deltas = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 100.0])]
    assert whole(robust.clipped_mean([3.0, 1.0], deltas, [1.0, 0.02])).tolist() == [0.75, 0.5]


def test_more_elements_than_a_chunk_are_all_worked_on() -> None:
    deltas = some(3, 5, elements=CHUNK + 17)
    stacked = torch.stack(deltas)
    torch.testing.assert_close(whole(robust.median(deltas)), stacked.median(dim=0).values)
    torch.testing.assert_close(torch.tensor(robust.norms(deltas)), stacked.norm(dim=1))
    assert robust.norms(deltas[:1], deltas[0]) == [0.0]

"""What is clipped and what isn't, how a job's method goes to work, and what is told of each node."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.reducer.works import Part, Treated
from runners.jobs.aggregating import Aggregator
from runners.jobs.anchor import AnchorError, weighted_average
from runners.jobs.clipping import LEAST_PAST, MULTIPLE, PAST_MULTIPLE, Clipper, Length
from runners.jobs.vectors import whole
from schemas.aggregation import Aggregation

ELEMENTS = 64


def lengths(*norms: float, steps: int = 10, microbatch: float = 8) -> list[Length]:
    return [Length(name, norm, steps, microbatch) for name, norm in zip("abcdefgh", norms, strict=False)]


def part(node: str, weight: float = 0.25, round_: int = 3, **work: Any) -> Part:
    return Part(node=node, round=round_, weight=weight, **{"samples": 80, "steps": 10, **work})


def a_round(*deltas: Tensor) -> list[tuple[Part, Tensor]]:
    return [(part(node, 1 / len(deltas)), delta) for node, delta in zip("abcdefgh", deltas, strict=False)]


def some(count: int, seed: int = 0, elements: int = ELEMENTS) -> list[Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(elements, generator=made) for _ in range(count)]


def aggregate(
    by: Aggregator, gathered: list[tuple[Part, Tensor]], method: Aggregation
) -> tuple[Tensor, tuple[Treated, ...]]:
    average, told = by.aggregate(gathered, method)
    return whole(average), told


# How long a difference may be.


def test_one_that_is_far_longer_than_the_others_is_clipped_to_the_multiple() -> None:
    assert Clipper().scales(lengths(1.0, 2.0, 1.5, 1e9)) == [1.0, 1.0, 1.0, pytest.approx(MULTIPLE * 1.75 / 1e9)]


@settings(max_examples=100)
@given(work=st.lists(st.tuples(st.integers(1, 200), st.sampled_from([1, 4, 16, 64])), min_size=3, max_size=8))
def test_honest_rounds_are_left_alone_whoever_does_how_much(work: list[tuple[int, int]]) -> None:
    """Whether all go one way (norm ~ steps) or noise moves them (norm ~ sqrt(steps / microbatch))."""
    for drifting in (True, False):
        told = [
            Length(str(place), float(steps) if drifting else (steps / microbatch) ** 0.5, steps, microbatch)
            for place, (steps, microbatch) in enumerate(work)
        ]
        assert Clipper().scales(told) == [1.0] * len(told)


def test_nobody_makes_a_majority_alone() -> None:
    told = [*lengths(1.0, 1.0), Length("x", 1e6, 10, 8), Length("x", 1e6, 10, 8), Length("x", 1e6, 10, 8)]
    assert Clipper().scales(told)[2:] == [pytest.approx(MULTIPLE / 1e6)] * 3


def test_two_nodes_are_measured_by_the_past_once_there_is_one() -> None:
    clipper = Clipper()
    for _ in range(LEAST_PAST):
        assert clipper.scales(lengths(1.0, 1e6)) == [1.0, 1.0], "nobody can tell which of them is wrong"
    clipper = Clipper()
    for _ in range(LEAST_PAST):
        clipper.scales(lengths(1.0, 1.2))
    assert clipper.scales(lengths(1.0, 1e6))[0] == 1.0
    assert clipper.scales(lengths(1.0, 1e6))[1] == pytest.approx(PAST_MULTIPLE * 1.1 / 1e6, rel=0.2)


def test_what_was_clipped_is_remembered_as_clipped() -> None:
    clipper = Clipper()
    for _ in range(20):
        clipper.scales(lengths(1.0, 1.0, 1e9))
    assert clipper.scales(lengths(1e9))[0] == pytest.approx(PAST_MULTIPLE / 1e9)


def test_differences_of_zero_are_no_measure() -> None:
    assert Clipper().scales(lengths(0.0, 0.0, 3.0)) == [1.0, 1.0, 1.0]


# The methods.


def test_an_honest_round_is_the_plain_mean_bit_by_bit() -> None:
    gathered = a_round(*some(5))
    clipped, told = aggregate(Aggregator(ELEMENTS, ELEMENTS), gathered, "clip")
    assert torch.equal(clipped, whole(weighted_average([(p.weight, d) for p, d in gathered])))
    assert all(t.scale == 1.0 and not t.remark for t in told)
    assert told[0].norm == pytest.approx(float(gathered[0][1].norm()))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from([1e4, 1e20, 1e36]), count=st.integers(3, 8))
def test_a_wild_node_moves_a_clipped_mean_by_its_weight_times_the_bound(seed: int, size: float, count: int) -> None:
    good = some(count - 1, seed)
    wild = some(1, seed + 1)[0] * size
    average, told = aggregate(Aggregator(ELEMENTS, ELEMENTS), a_round(*good, wild), "clip")
    longest = max(float(delta.norm()) for delta in good)
    of_good = torch.stack(good).sum(0) / count
    assert float((average - of_good).norm()) <= MULTIPLE * longest / count * 1.001
    assert told[-1].scale < 1.0
    assert "clipped" in told[-1].remark
    assert not any(t.remark for t in told[:-1])


def test_buffers_are_measured_apart() -> None:
    """Running variances in the thousands would hide any change of the parameters."""
    good = [torch.cat([delta, torch.full((8,), 5e3)]) for delta in some(3)]
    wild = torch.cat([some(1)[0] * 30, torch.full((8,), 5e3)])
    average, told = aggregate(Aggregator(ELEMENTS, ELEMENTS + 8), a_round(*good, wild), "clip")
    assert told[3].scale < 1.0
    assert average[-8:].tolist() == pytest.approx([5e3] * 8)


@pytest.mark.parametrize("method", ["trimmed", "median", "krum", "centered_clip"])
def test_each_node_has_one_vote(method: Any) -> None:
    """A liar who claims a million samples and offers three late differences besides moves nothing by it."""
    good = [torch.ones(ELEMENTS) + delta * 0.01 for delta in some(4)]
    liars = [(part("x", 0.2, made, samples=10**6), torch.full((ELEMENTS,), 1e6)) for made in (1, 2, 3)]
    average, told = aggregate(Aggregator(ELEMENTS, ELEMENTS), [*a_round(*good), *liars], method)
    torch.testing.assert_close(average, torch.ones(ELEMENTS), atol=0.1, rtol=0)
    assert sum(t.weight for t in told) == pytest.approx(1.0)
    assert all("stands apart" in t.remark for t in told[4:])
    assert sum(t.weight for t in told[4:]) == pytest.approx(0.0 if method == "krum" else 0.2)


def test_the_late_and_the_present_difference_of_a_node_are_one_by_weight() -> None:
    late, present, other = torch.tensor([0.0]), torch.tensor([4.0]), torch.tensor([3.0])
    gathered = [(part("a", 0.1, 2), late), (part("a", 0.3, 3), present), (part("b", 0.3), other), (part("c", 0.3), other)]
    average, told = aggregate(Aggregator(1, 1), gathered, "median")
    assert average.tolist() == [3.0]
    assert [t.weight for t in told] == pytest.approx([1 / 12, 3 / 12, 1 / 3, 1 / 3])


def test_weights_that_are_none_are_refused() -> None:
    with pytest.raises(AnchorError):
        Aggregator(ELEMENTS, ELEMENTS).aggregate([(part("a", 0.0), some(1)[0])], "mean")

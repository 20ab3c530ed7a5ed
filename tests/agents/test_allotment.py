"""Who reduces which piece, and who is in a round's way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.reducer.allotment import TOLERANCE, filled, in_the_way, regular, share_out

RATES = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 100.0), min_size=1)


@given(st.integers(2, 16), RATES)
@settings(max_examples=60, deadline=None)
def test_no_other_single_move_is_done_sooner(pieces: int, rates: dict[str, float]) -> None:
    shares = share_out(pieces, rates)
    assert len(shares) == pieces
    longest = max(shares.count(node) / rates[node] for node in set(shares))
    for node, rate in rates.items():  # who is given a piece more would be done no sooner than the one who is done last now
        assert (shares.count(node) + 1) / rate >= longest * (1 - 1e-9)


def test_equal_links_get_equal_shares_and_neighbouring_pieces_different_ones() -> None:
    assert share_out(8, dict.fromkeys("abcd", 3.0)) == tuple("abcdabcd")


def test_a_slow_link_gets_nothing_and_a_fast_one_more() -> None:
    shares = share_out(8, {"a": 2.0, "b": 1.0, "c": 0.1})
    assert (shares.count("a"), shares.count("b"), shares.count("c")) == (6, 2, 0)


def test_who_is_at_work_stays_while_that_is_nearly_as_good() -> None:
    present = share_out(8, dict.fromkeys("abcd", 3.0))
    assert share_out(8, {"a": 3.0, "b": 2.8, "c": 3.3, "d": 2.9}, present) == present
    assert share_out(8, {"a": 3.0, "b": 0.5, "c": 3.3, "d": 2.9}, present) != present
    assert share_out(8, {"a": 3.0, "b": 3.0, "c": 3.0}, present).count("d") == 0
    assert TOLERANCE < 2.0


@pytest.mark.parametrize(
    ("measured", "most", "expected"),
    [
        ({}, 0, {"a": 1.0, "b": 1.0, "c": 1.0}),
        ({"b": 4.0, "c": 2.1}, 0, {"a": 2.0, "b": 2.0, "c": 2.0}),
        ({"b": 4.0, "c": 0.5}, 0, {"a": 2.0, "b": 2.0, "c": 0.5}),
        ({"a": 0.5, "b": 4.0}, 0, {"a": 0.5, "b": 2.0, "c": 2.0}),
        ({"b": 4.0, "c": 2.0}, 2, {"a": 2.0, "b": 2.0}),
        ({"b": 4.0, "c": 2.0}, 1, {"a": 2.0}),
    ],
)
def test_what_was_not_measured_is_filled_in_and_like_rates_are_alike(
    measured: dict[str, float], most: int, expected: dict[str, float]
) -> None:
    assert filled("a", ["b", "c"], measured, most) == expected


def test_who_contributes_now_and_then_reduces_only_with_a_rate_like_the_best() -> None:
    assert regular(["a", "b", "c"], ("b", "c"), {"a": 4.0, "b": 2.5, "c": 1.0}) == ["a", "b"]
    assert regular(["a", "b"], ("b",), {}) == ["a"]


def test_those_are_in_the_way_without_whom_there_is_a_quorum() -> None:
    lacking = {"a/1": {"d"}, "b/1": {"d"}, "c/1": {"d", "b"}, "d/1": set()}
    assert in_the_way(lacking, ("b", "c", "d"), 3, patient=True) == ("d",)
    assert in_the_way(lacking, ("b", "c", "d"), 4, patient=True) == ("d", "b")


def test_nobody_is_in_the_way_of_contributions_that_are_late_themselves() -> None:
    lacking = {"a/1": {"a", "b", "c"}, "b/1": {"a", "b"}}
    assert in_the_way(lacking, ("b", "c"), 2, patient=True) == ()
    assert in_the_way(lacking, ("b", "c"), 2, patient=False) == ("b", "c")

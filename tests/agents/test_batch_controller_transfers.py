"""Transfer times: a fixed part and a rate, learned from transfers of one size or of several."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.batch_controller import transfers
from agents.batch_controller.state import Node
from schemas.network import LinkQuality
from schemas.training import Share

FAIR = Node(quality=LinkQuality.FAIR, latency_ms=100.0)
SHARE = Share(microbatch=8, local_steps=1, encoding="float16", streams=4)


def seen(*pairs: tuple[int, float], node: Node = FAIR, streams: int = 4) -> transfers.Transfers:
    known: transfers.Transfers = {}
    for size, seconds in pairs:
        transfers.observe(known, size, seconds, streams, node)
    return known


def test_a_measured_transfer_predicts_the_next() -> None:
    known = seen(*[(2_000_000, 2.1)] * 3)
    assert transfers.seconds_for(known, 2_000_000, SHARE, FAIR) == pytest.approx(2.1)
    assert transfers.seconds_for(known, 1_000_000, SHARE, FAIR) == pytest.approx(1.1, rel=0.2)


def test_a_small_transfer_teaches_no_rate() -> None:
    """A few kilobytes take a round trip and some messages; a large tensor would not travel at that rate."""
    known = seen(*[(2_000, 0.25)] * 3)
    naive = 2_000_000 * 0.25 / 2_000
    predicted = transfers.seconds_for(known, 2_000_000, SHARE, FAIR)
    assert predicted < naive / 50
    assert predicted <= 3 * sum(transfers.expected(2_000_000, 4, FAIR))
    assert transfers.seconds_for(known, 2_000, SHARE, FAIR) == pytest.approx(0.25)


@given(
    fixed=st.floats(0.05, 2.0),
    rate=st.floats(5e4, 2e7),
    odd=st.integers(0, 7),
    times=st.floats(0.2, 1.4),
)
def test_two_sizes_tell_the_fixed_part_from_the_rate(fixed: float, rate: float, odd: int, times: float) -> None:
    """On a link of one round trip and no slow start to speak of, with one odd measurement among eight."""
    node = Node(quality=LinkQuality.FAIR, latency_ms=1.0)
    sizes = [100_000, 4_000_000] * 4
    truth = [fixed + size / rate for size in sizes]
    measured = [seconds * (times if n == odd else 1.0) for n, seconds in enumerate(truth)]
    known = seen(*zip(sizes, measured, strict=True), node=node)
    learned = transfers.factors(known)
    if len(known) < 2 or learned.fixed in (0.0, transfers.BOUNDS[1]):
        return  # bounded: the fixed part is far beyond what such a link is expected to take
    assert learned.moving * 4e6 / transfers.expected_rate(node.quality, 4) == pytest.approx(4e6 / rate, rel=0.5)


def test_the_factors_outlive_a_change_of_grade() -> None:
    known = seen(*[(2_000_000, 3.0)] * 3)
    poor = Node(quality=LinkQuality.POOR, latency_ms=225.0)
    usual = sum(transfers.expected(500_000, 8, poor))
    share = Share(microbatch=8, local_steps=1, encoding="int8", streams=8)
    assert transfers.seconds_for(known, 500_000, share, poor) == pytest.approx(transfers.factors(known).moving * usual)


def test_one_odd_transfer_is_outvoted_and_a_lasting_change_counts() -> None:
    known = seen(*[(2_000_000, 2.0)] * 4, (2_000_000, 30.0))
    assert transfers.seconds_for(known, 2_000_000, SHARE, FAIR) == pytest.approx(2.0)
    assert transfers.slowest_seconds_for(known, 2_000_000, SHARE, FAIR) == pytest.approx(30.0)
    for _ in range(3):
        transfers.observe(known, 2_000_000, 6.0, 4, FAIR)
    assert transfers.seconds_for(known, 2_000_000, SHARE, FAIR) == pytest.approx(6.0)


def test_a_link_that_changed_voids_what_was_measured_of_other_sizes() -> None:
    known = seen(*[(100_000, 0.3)] * 3, *[(2_000_000, 2.0)] * 5)
    assert len(known) == 2
    for _ in range(3):
        transfers.observe(known, 2_000_000, 9.0, 4, FAIR)
    assert len(known) == 1


def test_a_transfer_that_took_no_time_says_nothing() -> None:
    assert seen((100, 0.0), (0, 1.0)) == {}


@given(
    pairs=st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-4, 1e4)), max_size=40),
    size=st.floats(1, 1e9),
    latency=st.floats(0, 1000),
)
def test_times_are_positive_grow_with_size_and_what_is_kept_is_bounded(
    pairs: list[tuple[int, float]], size: float, latency: float
) -> None:
    node = Node(quality=LinkQuality.GOOD, latency_ms=latency)
    known = seen(*pairs, node=node)
    assert len(known) <= transfers.SIZES
    assert all(len(moved) <= transfers.REMEMBERED for moved in known.values())
    less, more = (transfers.seconds_for(known, much, SHARE, node) for much in (size, 2 * size))
    assert 0 < less <= more
    assert transfers.slowest_seconds_for(known, size, SHARE, node) >= less

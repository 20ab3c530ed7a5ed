"""The batch controller's arithmetic: the ladder of microbatches, the round, what travels how, and what is learned."""

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.batch_controller import BatchControllerSettings, learning, links, microbatch, rounds
from agents.batch_controller.rounds import Pace
from agents.batch_controller.state import Known, Node
from schemas.jobs import AverageEncoding, BatchStrategy, Encoding
from schemas.network import LinkQuality

S = BatchControllerSettings(coarsest="topk")
LADDER = (1, 64)


def test_a_node_whose_link_is_now_and_then_slow_is_not_waited_for() -> None:
    steady = Pace(step=0.1, up=0.3, down=0.3)
    moody = Pace(step=0.1, up=0.3, down=0.3, spread=1.5)
    assert rounds.rounds_between(steady, 2.0, 1, 20, S) == 1
    assert rounds.rounds_between(moody, 2.0, 1, 20, S) > 1


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (1, 64, (1, 64)),
        (3, 64, (4, 64)),
        (1, 100, (1, 64)),
        (5, 7, (4, 4)),
        (10, 10, (8, 8)),
        (16, 16, (16, 16)),
        (1, 1, (1, 1)),
    ],
)
def test_bounds_are_powers_of_two(least: int, most: int, expected: tuple[int, int]) -> None:
    assert microbatch.bounds(least, most) == expected


@pytest.mark.parametrize(("asked", "expected"), [(8, 8), (10, 8), (1, 2), (500, 64)])
def test_the_start_is_what_was_asked_on_the_ladder(asked: int, expected: int) -> None:
    assert microbatch.first(asked, 2, 64) == expected


@pytest.mark.parametrize(
    ("latency_ms", "expected"), [(0.0, 8), (1.0, 8), (30.0, 8), (100.0, 16), (225.0, 32), (275.0, 32), (830.0, 64)]
)
def test_a_higher_latency_calls_for_a_larger_microbatch(latency_ms: float, expected: int) -> None:
    assert microbatch.latency_target(8, latency_ms, S) == expected


@pytest.mark.parametrize(
    ("strategy", "present", "target", "measured", "expected"),
    [
        ("latency", 8, 32, {}, 16),
        ("latency", 32, 32, {}, 32),
        ("latency", 32, 8, {}, 16),
        ("throughput", 8, 32, {}, 8),  # not measured yet
        ("throughput", 8, 8, {8: 100.0}, 16),  # to see whether more gains
        ("throughput", 16, 8, {8: 100.0, 16: 150.0}, 32),  # goes on while it improves
        ("throughput", 16, 8, {8: 100.0, 16: 80.0}, 8),  # turns when it degrades
        ("throughput", 16, 8, {8: 100.0, 16: 105.0}, 16),  # a plateau
        ("throughput", 64, 8, {32: 100.0, 64: 150.0}, 64),  # the end of the ladder
        ("hybrid", 8, 8, {8: 100.0}, 16),  # throughput may try one rung beyond
        ("hybrid", 16, 8, {8: 100.0, 16: 150.0}, 16),  # and stay, but not go further
        ("hybrid", 16, 8, {8: 100.0, 16: 101.0}, 8),  # no gain: back to what the latency calls for
        ("hybrid", 8, 32, {8: 100.0}, 16),
        ("hybrid", 8, 32, {8: 100.0, 16: 50.0}, 8),  # latency alone isn't heard against a measured loss
        ("fixed", 8, 32, {8: 100.0}, 8),
    ],
)
def test_the_table_of_moves(
    strategy: BatchStrategy, present: int, target: int, measured: dict[int, float], expected: int
) -> None:
    assert microbatch.next_rung(strategy, present, target, measured, LADDER, S) == expected


RUNGS = st.sampled_from([1, 2, 4, 8, 16, 32, 64])


@given(
    strategy=st.sampled_from(["latency", "throughput", "hybrid"]),
    start=RUNGS,
    target=RUNGS,
    rates=st.lists(st.floats(1, 1000), min_size=7, max_size=7),
)
def test_with_fixed_rates_every_strategy_comes_to_rest(
    strategy: BatchStrategy, start: int, target: int, rates: list[float]
) -> None:
    """Each rung is measured once it was visited; nothing may swing for good."""
    true = {1 << i: rate for i, rate in enumerate(rates)}
    measured: dict[int, float] = {}
    size, path = start, [start]
    for _ in range(40):
        measured[size] = true[size]
        size = microbatch.next_rung(strategy, size, target, measured, LADDER, S)
        path.append(size)
    assert len(set(path[-10:])) == 1, path
    assert all(max(a, b) <= 2 * min(a, b) for a, b in itertools.pairwise(path))


def test_the_fastest_takes_what_was_asked_and_a_slower_one_its_proportion() -> None:
    paces = {"a": Pace(step=0.1, up=0.0, down=0.0), "b": Pace(step=0.3, up=0.0, down=0.0)}
    seconds = rounds.round_time(paces, dict.fromkeys(paces, 12), quorum=1)
    assert seconds == pytest.approx(1.2)
    ideal = {name: rounds.ideal_steps(pace, seconds, 1, S) for name, pace in paces.items()}
    assert ideal == {"a": pytest.approx(12), "b": pytest.approx(4)}
    assert rounds.steps_for(ideal["a"], 12, None, 2.0, S) == 12
    assert rounds.steps_for(ideal["b"], 12, None, 2.0, S) == 4


def test_transfers_are_part_of_the_round() -> None:
    paces = {"a": Pace(step=0.1, up=0.0, down=0.0), "b": Pace(step=0.1, up=0.3, down=0.2)}
    seconds = rounds.round_time(paces, dict.fromkeys(paces, 10), quorum=1)
    assert rounds.steps_for(rounds.ideal_steps(paces["b"], seconds, 1, S), 10, None, 2.0, S) == 5


def test_a_round_is_long_enough_for_a_quorum() -> None:
    slow = Pace(step=0.1, up=4.0, down=1.0)
    paces = {"a": Pace(step=0.1, up=0.0, down=0.0), "b": slow, "c": slow}
    assert rounds.round_time(paces, dict.fromkeys(paces, 10), quorum=2) == pytest.approx(5.1)
    assert rounds.round_time({"a": paces["a"]}, {"a": 10}, quorum=1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("up", "down", "present", "expected"),
    [
        (0.5, 0.2, 1, 1),
        (1.2, 0.1, 1, 1),  # a third of the round for computing, every round, is better than more of it for half the weight
        (1.6, 0.2, 1, 2),
        (1.6, 0.2, 2, 2),
        (1.3, 0.1, 2, 2),  # nearly best: stays
        (0.5, 0.1, 2, 1),
        (5.0, 0.5, 1, 6),  # transfers of 2.75 rounds: 5.5 rounds between contributions, half of them for computing
        (90.0, 1.0, 1, 8),
    ],
)
def test_a_slow_link_contributes_every_so_many_rounds(up: float, down: float, present: int, expected: int) -> None:
    assert rounds.rounds_between(Pace(step=0.1, up=up, down=down), 2.0, present, 20, S) == expected


@given(
    step=st.floats(0.01, 3.0),
    up=st.floats(0.0, 20.0),
    down=st.floats(0.0, 5.0),
    present=st.integers(1, 8),
    asked=st.integers(1, 100),
)
def test_rounds_between_contributions_are_nearly_the_best_there_are(
    step: float, up: float, down: float, present: int, asked: int
) -> None:
    pace = Pace(step=step, up=up, down=down)
    values = {every: rounds.counted(pace, 2.0, every, asked) for every in range(1, S.every_max + 1)}
    chosen = rounds.rounds_between(pace, 2.0, present, asked, S)
    assert values[chosen] * rounds.BETTER >= max(values.values())


@pytest.mark.parametrize(
    ("ideal", "present", "factor", "expected"),
    [
        (7.2, None, 2.0, 7),
        (7.8, None, 2.0, 8),
        (0.2, None, 2.0, 1),
        (99.0, None, 2.0, 10),
        (7.4, 8, 2.0, 8),  # near enough
        (6.0, 8, 2.0, 6),
        (1.0, 10, 2.0, 5),  # by half at once
        (1.0, 10, 4.0, 3),
        (9.0, 2, 2.0, 4),
        (9.0, 1, 1.5, 2),  # by one at least
        (1.0, 10, 1.0, 10),  # not at all
        (9.6, 9, 2.0, 9),
        (10.0, 9, 2.0, 10),  # the fastest takes all that was asked
    ],
)
def test_the_table_of_steps(ideal: float, present: int | None, factor: float, expected: int) -> None:
    assert rounds.steps_for(ideal, 10, present, factor, S) == expected


@given(
    step=st.floats(0.01, 5), slower=st.floats(1, 10), up=st.floats(0, 5), down=st.floats(0, 5), seconds=st.floats(0.5, 20)
)
def test_a_slower_node_never_gets_more_steps_at_an_equal_link(
    step: float, slower: float, up: float, down: float, seconds: float
) -> None:
    fast, slow = Pace(step=step, up=up, down=down), Pace(step=step * slower, up=up, down=down)
    for every in (1, 3):
        steps = [rounds.steps_for(rounds.ideal_steps(pace, seconds, every, S), 20, None, 2.0, S) for pace in (fast, slow)]
        assert steps[1] <= steps[0]


def test_missed_deadlines_cost_work() -> None:
    ideal = [rounds.ideal_steps(Pace(step=0.1, up=0, down=0, misses=n), 1.0, 1, S) for n in range(9)]
    assert ideal[1] == pytest.approx(7.5)
    assert ideal == sorted(ideal, reverse=True)
    assert ideal[8] == ideal[S.misses_counted]


@pytest.mark.parametrize(
    ("grade", "encoding", "streams"),
    [
        ("excellent", "float32", 1),
        ("good", "float16", 4),
        ("fair", "float16", 16),
        ("poor", "int8", 32),
        ("critical", "int8", 32),
        (None, "float16", 4),
    ],
)
def test_each_grade_has_its_encoding_and_connections(grade: str | None, encoding: str, streams: int) -> None:
    quality = LinkQuality(grade) if grade else None
    assert links.encoding_for(quality, None, {}, S) == encoding
    assert links.streams_for(quality) == streams


@pytest.mark.parametrize(
    ("grade", "present", "in_float16", "expected"),
    [
        ("good", "float16", 0.0095, "float16"),
        ("good", "float16", 0.8, "int8"),  # slower than its grade
        ("good", "float16", 99.0, "int8"),  # beyond that a level at a time
        ("good", None, 99.0, "float16"),
        ("good", "int8", 0.007, "int8"),  # stays until the usual one would take half of what is too much
        ("good", "int8", 0.0045, "float16"),
        ("excellent", "float32", 0.0045, "float32"),  # 0.009 in float32
        ("excellent", "float32", 0.008, "float16"),
        ("excellent", "float32", 0.45, "int8"),
        ("good", "float16", 0.004, "float16"),  # never finer than its grade
        ("poor", "float16", 0.04, "int8"),
        ("poor", "float16", 99.0, "int8"),  # no further at once
        ("poor", "int8", 0.04, "int8"),
        ("poor", "int8", 0.48, "int8"),  # 0.24 in int8
        ("poor", "int8", 0.52, "int4"),
        ("poor", "int4", 0.52, "int4"),
        ("poor", "int4", 0.26, "int4"),  # 0.13 in int8
        ("poor", "int4", 0.24, "int8"),
        ("poor", "int4", 0.9, "int4"),  # 0.24 in int4
        ("good", "int4", 1.0, "topk"),
        ("good", "topk", 99.0, "topk"),
        ("good", "topk", 0.5, "topk"),  # 0.13 in int4
        ("good", "topk", 0.4, "int4"),
        ("excellent", "topk", 0.01, "int4"),  # and back a level at a time
    ],
)
def test_measured_uploads_move_the_encoding_by_one_level(
    grade: str, present: Encoding | None, in_float16: float, expected: str
) -> None:
    assert links.encoding_for(LinkQuality(grade), present, parts_of(in_float16), S) == expected


def parts_of(in_float16: float) -> dict[Encoding, float]:
    """The part of a round that an upload takes in each encoding, given that in float16."""
    return links.upload_shares(10_000_000, 20_000_000 / in_float16)


@given(
    start=st.sampled_from(links.FINEST_FIRST),
    grade=st.sampled_from([grade for grade in LinkQuality if grade is not LinkQuality.OFFLINE]),
    rates=st.lists(st.floats(1e-3, 1e3), max_size=3),
    last=st.floats(1e-3, 1e3),
)
def test_the_encoding_comes_to_rest_and_is_not_moved_by_rates_that_vary_a_little(
    start: Encoding, grade: LinkQuality, rates: list[float], last: float
) -> None:
    """Each rate holds for as long as the ladder has levels; at the last one the upload fits, or nothing coarser is left."""
    present = start
    for part in [*rates, last]:
        for _ in links.FINEST_FIRST:
            after = links.encoding_for(grade, present, parts_of(part), S)
            levels = [links.FINEST_FIRST.index(encoding) for encoding in (present, after)]
            usual = links.FINEST_FIRST.index(links.encoding_for(grade, None, {}, S))
            assert levels[1] >= usual
            assert abs(levels[1] - levels[0]) <= 1 or levels[1] == usual or after == "int8"
            present = after
    assert present == "topk" or parts_of(last)[present] <= S.slow_share
    moved = links.encoding_for(grade, present, parts_of(last * 0.9), S)
    assert links.encoding_for(grade, moved, parts_of(last), S) == moved


@pytest.mark.parametrize(
    ("grade", "present", "in_float16", "expected"),
    [
        ("good", "topk", 0.0095, "float16"),  # a link that got better: all the way back
        ("good", "topk", 0.4, "int8"),
        ("critical", "topk", 2.0, "topk"),  # one that got worse: no slow uploads from the usual one on
        ("critical", "int8", 2.0, "int8"),
        ("poor", "float16", 2.0, "int8"),
    ],
)
def test_with_another_grade_the_finest_that_fits_is_used_at_once(
    grade: str, present: Encoding, in_float16: float, expected: str
) -> None:
    assert links.encoding_for(LinkQuality(grade), present, parts_of(in_float16), S, regraded=True) == expected


def test_what_travels_in_the_first_flight_needs_no_coarser_encoding() -> None:
    parts = links.upload_shares(20_000, 10_000.0)
    assert (parts["int8"], parts["int4"]) == (pytest.approx(2.03, rel=0.01), 0.0)
    assert links.encoding_for(LinkQuality.POOR, "int8", parts, S) == "int4"
    assert links.encoding_for(LinkQuality.POOR, "int4", parts, S) == "int4"


def test_an_encoding_stays_while_nothing_is_measured() -> None:
    assert links.encoding_for(LinkQuality.POOR, "topk", {}, S) == "topk"
    assert links.encoding_for(LinkQuality.POOR, "float16", {}, S) == "int8"


@pytest.mark.parametrize("encoding", links.FINEST_FIRST)
def test_an_average_is_never_coarser_than_int8(encoding: Encoding) -> None:
    average = links.average_as(encoding)
    assert average == (encoding if encoding in get_args(AverageEncoding) else "int8")


def test_the_average_suits_the_worst_link() -> None:
    excellent, good, poor = LinkQuality.EXCELLENT, LinkQuality.GOOD, LinkQuality.POOR
    assert links.average_encoding_for([excellent, excellent]) == "float32"
    assert links.average_encoding_for([excellent, good, None]) == "float16"
    assert links.average_encoding_for([excellent, poor, good]) == "int8"


def test_connections_help_a_lossy_link_up_to_the_line() -> None:
    poor = LinkQuality.POOR
    assert links.expected_rate(poor, 8) == 8 * links.expected_rate(poor, 1)
    assert links.expected_rate(poor, 1000) == 2.4e6


def test_one_odd_step_time_is_outvoted_and_a_lasting_one_counts() -> None:
    known = Known()
    for seconds in (0.2, 0.21, 0.2, 1.9, 0.2):
        learning.observe_steps(known, 8, seconds)
    assert learning.step_seconds(known, 8) == pytest.approx(0.2)
    for _ in range(3):
        learning.observe_steps(known, 8, 0.6)
    assert learning.step_seconds(known, 8) == pytest.approx(0.6)


def test_a_machine_that_got_slower_voids_the_times_of_other_microbatches() -> None:
    known = Known()
    for _ in range(5):
        learning.observe_steps(known, 8, 0.2)
        learning.observe_steps(known, 16, 0.35)
    for _ in range(5):
        learning.observe_steps(known, 16, 1.0)
    assert set(known.steps) == {16}
    slow = learning.step_seconds(known, 8)
    assert slow is not None
    assert slow > 0.5


def test_step_times_between_and_beyond_are_affine() -> None:
    known = Known()
    assert learning.step_seconds(known, 8) is None
    learning.observe_steps(known, 8, 0.2)
    assert learning.step_seconds(known, 16) == pytest.approx(0.2 * (0.3 + 0.7 * 2))
    learning.observe_steps(known, 16, 0.3)
    assert learning.step_seconds(known, 32) == pytest.approx(0.5)
    assert learning.step_seconds(known, 4) == pytest.approx(0.15)


@given(times=st.dictionaries(RUNGS, st.floats(0.001, 10), min_size=1), size=RUNGS)
@hypothesis_settings(deadline=None)
def test_step_times_are_positive_whatever_was_measured(times: dict[int, float], size: int) -> None:
    known = Known()
    for microbatch_, seconds in times.items():
        learning.observe_steps(known, microbatch_, seconds)
    estimate = learning.step_seconds(known, size)
    assert estimate is not None
    assert estimate > 0


def test_hints_go_by_slowdown_step_time_and_accelerator() -> None:
    plain = learning.hinted_step(Node(), 8, 8)
    assert learning.hinted_step(Node(slowdown=3.0), 8, 8) == pytest.approx(3 * plain)
    assert learning.hinted_step(Node(step_time=0.4), 8, 8) == 0.4
    assert learning.hinted_step(Node(step_time=0.4, slowdown=3.0), 16, 8) == pytest.approx(2.4)
    assert learning.hinted_step(Node(accelerated=True), 8, 8) < plain


def test_transfers_beside_the_steps_take_no_time_of_a_round() -> None:
    near, far = Pace(step=0.1, up=0.0, down=0.0, beside=True), Pace(step=0.1, up=0.7, down=0.2, beside=True)
    seconds = rounds.round_time({"a": near, "b": far}, {"a": 10, "b": 10}, quorum=2)
    assert seconds == pytest.approx(1.0)
    assert rounds.ideal_steps(far, seconds, 1, S) == pytest.approx(10)
    assert rounds.rounds_between(far, seconds, 1, 10, S) == 1


def test_transfers_that_take_longer_than_the_round_make_contributions_rarer_also_beside_steps() -> None:
    far = Pace(step=0.1, up=1.5, down=0.2, beside=True)
    assert rounds.round_time({"a": far}, {"a": 10}, quorum=1) == pytest.approx(1.7)
    assert rounds.rounds_between(far, 1.0, 1, 10, S) == 2
    assert rounds.ideal_steps(far, 1.0, 2, S) == pytest.approx(20)


@given(up=st.floats(0.0, 20.0), present=st.integers(1, 8), parts=st.integers(1, 16), beside=st.booleans())
def test_a_node_that_is_rarely_there_meets_every_fragment(up: float, present: int, parts: int, beside: bool) -> None:
    pace = Pace(step=0.1, up=up, down=0.1, beside=beside, parts=parts)
    every = rounds.rounds_between(pace, 1.0, present, 10, S)
    assert 1 <= every <= S.every_max
    assert {every * visit % parts for visit in range(parts)} == set(range(parts))

"""How often a site averages in the midst of a round: what is best, what is asked for, and how long anybody waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.trainer import meeting
from schemas.sites import SiteMember


def member(node: str, steps: int, seconds: float, microbatch: int = 4) -> SiteMember:
    return SiteMember(node=node, samples=steps * microbatch, steps=steps, loss=1.0, compute_seconds=seconds)


ALIKE = [member(name, 10, 2.0) for name in "abcd"]


@pytest.mark.parametrize(("cost", "parts"), [(0.001, 10), (0.02, 5), (0.2, 2), (5.0, 1)])
def test_the_quicker_an_average_the_more_of_them(cost: float, parts: int) -> None:
    best = meeting.parts(ALIKE, cost)
    assert abs(best - parts) <= 1, "steps of 0.2 s, a fortieth of one lost for each further one between two averages"


def test_a_number_stays_where_another_gains_little() -> None:
    assert meeting.parts(ALIKE, 0.02, present=5) == 5
    assert meeting.parts(ALIKE, 0.02, present=4) == 4
    assert meeting.parts(ALIKE, 0.02, present=1) > 1


def test_slow_nodes_take_part_in_each_average_though_they_take_fewer_steps_between_two() -> None:
    slow = [*ALIKE[:3], member("d", 3, 1.8)]
    assert 3 <= meeting.parts(slow, 0.02) <= 6


@given(
    st.lists(st.tuples(st.integers(1, 100), st.floats(0, 100)), min_size=1, max_size=8),
    st.floats(0, 10),
    st.integers(0, 200),
    st.integers(0, 50),
)
def test_a_part_has_a_step_of_somebody_at_least(
    shares: list[tuple[int, float]], cost: float, present: int, asked: int
) -> None:
    members = [member(str(number), *share) for number, share in enumerate(shares)]
    parts = meeting.parts(members, cost, present, asked)
    assert 1 <= parts <= max(steps for steps, _ in shares)
    assert meeting.why(members, cost, parts, asked)


def test_what_the_user_asks_for_holds() -> None:
    assert meeting.parts(ALIKE, 5.0, present=1, asked=1) == 10
    assert meeting.parts(ALIKE, 0.0, asked=3) == 3
    assert meeting.parts(ALIKE, 0.0, asked=10) == 1
    assert meeting.parts(ALIKE, 0.0, asked=10_000) == 1


def test_patience_follows_from_what_was_waited_and_from_failures() -> None:
    assert meeting.patience(0.6, [], 0) == meeting.LEAST_PATIENCE
    assert meeting.patience(20.0, [], 0) == 10.0, "of a part of twenty seconds half, in which a step may be"
    assert meeting.patience(0.6, [0.1, 4.0, 0.2], 0) == 8.0
    assert meeting.patience(0.6, [], 2) == 4 * meeting.LEAST_PATIENCE

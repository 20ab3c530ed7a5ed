"""The batch controller with `sync = "step"`: speed shows in the microbatches, and nothing else does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_batch_controller import EQUAL, Fleet

from agents.batch_controller import gradients
from agents.batch_controller.rounds import Pace

SLOWER = {"a": (0.02, "excellent"), "b": (0.022, "excellent"), "c": (0.07, "excellent"), "d": (0.16, "excellent")}


def begun(nodes: dict[str, tuple[float, str]], **request: Any) -> Fleet:
    return Fleet(nodes, sync="step", **request).begin()


def sizes(fleet: Fleet) -> dict[str, int]:
    return {name: share.microbatch for name, share in fleet.latest.shares.items()}


def one_gradient_a_round(fleet: Fleet) -> None:
    for _, assignment in fleet.said:
        assert all((share.local_steps, share.every) == (1, 1) for share in assignment.shares.values())


def test_microbatches_become_proportional_to_measured_speed() -> None:
    fleet = begun(SLOWER, microbatch=32)
    assert set(sizes(fleet).values()) == {32}
    fleet.train(30)
    assert sizes(fleet) == {"a": 32, "b": 32, "c": 8, "d": 4}
    assert any("microbatch 16 -> 8: a gradient of 16 samples takes 1.1 s" in said.reason for _, said in fleet.said)
    one_gradient_a_round(fleet)
    before = len(fleet.said)
    fleet.train(30)
    assert sizes(fleet) == {"a": 32, "b": 32, "c": 8, "d": 4}, "it swings"
    assert len(fleet.said) - before <= 1


def test_a_node_that_gets_faster_takes_more_again() -> None:
    fleet = begun(SLOWER, microbatch=32)
    fleet.train(30)
    fleet.nodes["d"] = (0.02, "excellent")
    fleet.train(60)
    assert sizes(fleet)["d"] == 32


def test_gradients_are_exact_unless_something_else_is_asked_for() -> None:
    nodes = EQUAL | {"d": (0.02, "poor")}
    assert {share.encoding for share in begun(nodes).latest.shares.values()} == {"float32"}
    assert begun(nodes).latest.average_encoding == "float32"
    asked = begun(nodes, encoding="int8")
    asked.train(3)
    assert {share.encoding for share in asked.latest.shares.values()} == {"int8"}


def test_a_slow_link_neither_lengthens_rounds_nor_makes_gradients_smaller() -> None:
    fleet = begun(EQUAL | {"d": (0.02, "poor")}, microbatch=8, parameters=10_000_000)
    fleet.train(20, missing=("d",))
    assert sum(fleet.transfers("d")) > 4 * fleet.latest.deadline_seconds
    assert sizes(fleet) == {"a": 8, "b": 8, "c": 8, "d": 8}
    one_gradient_a_round(fleet)


def test_equal_work_is_equal_gradients() -> None:
    fleet = begun(SLOWER, batch="fixed", microbatch=16)
    fleet.train(5)
    assert set(sizes(fleet).values()) == {16}
    one_gradient_a_round(fleet)


def test_a_quorum_is_waited_for_even_where_one_node_is_far_ahead() -> None:
    fleet = begun({"a": (0.001, "excellent"), "b": (0.5, "excellent"), "c": (0.5, "excellent")}, microbatch=8)
    fleet.train(20)
    assert sizes(fleet)["b"] == 1
    assert fleet.latest.deadline_seconds > 0.5 + sum(fleet.transfers("b"))


def test_without_leave_to_adapt_sizes_stay() -> None:
    fleet = begun(SLOWER, microbatch=32)
    fleet.tune(1, adapt=False, max_factor=1.0)
    fleet.train(10)
    assert set(sizes(fleet).values()) == {32}


@given(st.floats(1e-4, 1.0), st.floats(1e-3, 10.0), st.integers(0, 6), st.sampled_from([1.0, 2.0, 4.0]))
def test_sizes_settle_within_their_bounds(a_sample: float, within: float, start: int, factor: float) -> None:
    rungs = [1 << n for n in range(7)]
    size = 1 << start
    for _ in range(8):
        moved = gradients.microbatch(size, lambda rung: rung * a_sample, within, rungs, factor)
        assert moved in rungs
        assert max(moved, size) <= factor * min(moved, size)
        if moved == size:
            break
        size = moved
    else:
        pytest.fail("it swings")


def test_a_round_is_made_for_a_quorum_and_those_who_take_not_much_longer() -> None:
    times = {"a": 1.0, "b": 1.5, "c": 2.9, "d": 9.0}
    assert gradients.prompt(times, 1) == ["a", "b"]
    assert gradients.prompt(times, 2) == ["a", "b", "c"]
    assert gradients.prompt(times, 9) == ["a", "b", "c", "d"]
    slow = Pace(step=0.2, up=3.0, down=1.0)
    assert gradients.room(slow, 4.5, 0.3) == 0.3
    assert gradients.room(slow, 6.0, 0.3) == pytest.approx(2.0)

"""Rounds with fewer steps than were asked for, where a target loss ends the job."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_batch_controller import Fleet

from agents.batch_controller import BatchControllerSettings, goodput, shortening
from agents.batch_controller.rounds import Pace

SETTINGS = BatchControllerSettings()
NEAR = dict.fromkeys("abcd", (0.5, "excellent"))  # 4 s a step of 8, and the fleet's rounds close in 1 s


def trained(nodes: dict[str, tuple[float, str]] = NEAR, rounds: int = 12, **request: Any) -> Fleet:
    usual: dict[str, Any] = {"batch": "hybrid", "microbatch": 8, "microbatch_max": 8, "target_loss": 1.0}
    fleet = Fleet(nodes, **(usual | request)).begin()
    fleet.train(rounds)
    return fleet


def test_on_cheap_links_a_few_steps_between_two_averages() -> None:
    fleet = trained()
    assert {fleet.share(name).local_steps for name in fleet.nodes} <= {1, 2, 3, 4}
    assert fleet.latest.efficiency > goodput.in_company(5)
    assert any("steps between two averages promise" in message.reason for _, message in fleet.said)


def test_on_bad_ones_as_many_as_were_asked_for() -> None:
    fleet = trained(dict.fromkeys("abcd", (0.02, "fair")))
    assert fleet.share("a").local_steps == 10
    assert fleet.latest.efficiency == round(goodput.in_company(10), 4)


@pytest.mark.parametrize(
    "request_",
    [
        {"target_loss": None},
        {"batch": "fixed"},
        {"adaptation": "off"},
        {"sync": "overlap"},
    ],
    ids=["ends by rounds", "fixed", "off", "overlap"],
)
def test_other_jobs_have_as_many_steps_as_were_asked_for(request_: dict[str, Any]) -> None:
    assert trained(**request_).share("a").local_steps == 10


def test_the_assignment_tells_what_rounds_are_made_for_and_is_enough_to_go_on_with() -> None:
    fleet = trained()
    assert fleet.latest.length == max(share.local_steps for share in fleet.latest.shares.values())
    assert trained(target_loss=None).latest.length is None
    again = Fleet(NEAR, batch="hybrid", target_loss=1.0)
    again.tell(fleet.latest)
    assert again.core.state.jobs["j"].history[-1].length == fleet.latest.length
    useful = trained(batch="goodput")
    assert useful.latest.length in (None, 0)


def test_a_node_alone_drifts_from_nobody() -> None:
    fleet = trained({"a": (0.5, "excellent")})
    assert fleet.share("a").local_steps == 10
    assert fleet.latest.efficiency == 1.0


def test_at_rest_nothing_changes_any_more() -> None:
    fleet = trained(rounds=20)
    said = len(fleet.said)
    fleet.train(30)
    assert len(fleet.said) == said


def test_links_that_turn_bad_bring_longer_rounds_again() -> None:
    fleet = trained()
    short = fleet.share("a").local_steps
    for name in fleet.nodes:
        fleet.grade(name, "critical")
    fleet.train(20)
    assert fleet.share("a").local_steps > short


def test_a_slow_node_of_four_still_does_its_part() -> None:
    fleet = trained(NEAR | {"d": (1.5, "excellent")})
    fast, slow = fleet.share("a").local_steps, fleet.share("d").local_steps
    assert slow >= 1
    assert fast >= 3, "rounds in which the slow one has time for a step"


def test_steps_are_weighed_up_to_as_many_as_were_asked_for() -> None:
    assert shortening.ladder(1) == [1]
    assert shortening.ladder(10) == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert shortening.ladder(1000)[-1] == 1000
    assert len(shortening.ladder(1000)) < 40


@given(st.floats(0.01, 5), st.floats(0.001, 30), st.integers(2, 60))
def test_alike_nodes_find_the_best_of_the_formula(step: float, cost: float, asked: int) -> None:
    paces = {name: Pace(step=step, up=0.0, down=0.0) for name in "ab"}
    sizes = dict.fromkeys("ab", 1.0)
    values = {steps: shortening.done_a_second(steps, paces, sizes, cost, 1, SETTINGS) for steps in shortening.ladder(asked)}
    found = shortening.choose(values, 0)
    whole = max(2 * h / (h * step + cost) * goodput.in_company(h) for h in range(1, asked + 1))
    assert values[found] >= 0.96 * whole, "0.98 is what the ladder leaves out, and what counts as good"


def test_a_small_gain_is_no_reason_to_change() -> None:
    assert shortening.choose({1: 1.0, 10: 1.018}, 1) == 1
    assert shortening.choose({1: 1.0, 10: 1.04}, 1) == 10


def test_of_lengths_that_promise_the_same_the_shortest_is_taken() -> None:
    assert shortening.choose({1: 0.97, 4: 0.985, 7: 1.0, 10: 0.99}, 10) == 4
    assert shortening.choose({1: 0.97, 4: 0.985, 7: 1.0, 10: 0.99}, 4) == 4
    assert shortening.choose({1: 0.97, 10: 1.0}, 10) == 10

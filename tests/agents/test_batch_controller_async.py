"""The batch controller with `sync = "async"`: like intervals for all, and a link that is slow has longer ones."""

from typing import Any

import pytest
from test_batch_controller import Fleet

from agents.batch_controller.asynchronous import LEAST_PATIENCE, intervals
from agents.batch_controller.rounds import Pace


def trained(nodes: dict[str, tuple[float, str]], **request: Any) -> Fleet:
    usual: dict[str, Any] = {"microbatch": 8, "microbatch_min": 8, "microbatch_max": 8, "local_steps": 20}
    fleet = Fleet(nodes, sync="async", **(usual | request)).begin()
    fleet.train(20)
    return fleet


def test_steps_go_by_speed_so_that_nobody_needs_longer_from_one_contribution_to_the_next() -> None:
    fleet = trained({name: (0.02 * factor, "good") for name, factor in zip("abcd", (1, 2, 5, 10), strict=True)})
    assert fleet.share("a").local_steps == 20
    times = [fleet.share(name).local_steps * fleet.step(name) for name in fleet.nodes]
    assert all(share.every == 1 for share in fleet.latest.shares.values())
    assert max(times) < 1.3 * fleet.latest.round_seconds
    assert min(times) > 0.6 * fleet.latest.round_seconds
    assert 20 * 8 * 0.02 <= fleet.latest.round_seconds < 1.3 * 20 * 8 * 0.02


def test_a_link_that_carries_less_has_more_steps_between_contributions() -> None:
    fleet = trained({"a": (0.02, "good"), "b": (0.02, "good"), "c": (0.02, "critical")}, encoding="float32", local_steps=10)
    slow, fast = fleet.share("c"), fleet.share("a")
    assert fast.every == 1
    assert slow.every > 1
    assert slow.local_steps == pytest.approx(slow.every * fast.local_steps, rel=0.2)


def test_the_deadline_is_only_how_long_a_version_waits_for_company() -> None:
    assert trained({"a": (0.001, "good"), "b": (0.001, "good")}).latest.deadline_seconds == LEAST_PATIENCE
    long = trained({"a": (0.05, "good"), "b": (0.05, "good")})
    assert long.latest.deadline_seconds == long.latest.round_seconds > LEAST_PATIENCE
    assert trained({"a": (0.05, "good")}, deadline_seconds=5.0).latest.deadline_seconds == 5.0


def test_all_strategies_but_fixed_give_steps_by_speed() -> None:
    assert trained({"a": (0.02, "good"), "b": (0.1, "good")}, batch="fixed").share("b").local_steps == 20
    assert trained({"a": (0.02, "good"), "b": (0.1, "good")}, batch="hybrid").share("b").local_steps < 20


def test_goodput_makes_more_and_smaller_steps_of_the_same_samples_where_steps_cost_by_the_sample() -> None:
    fleet = trained(
        {name: (0.02 * factor, "good") for name, factor in zip("abcd", (1, 2, 2, 4), strict=True)},
        microbatch_min=1,
        batch="goodput",
    )
    first = fleet.share("a")
    assert first.microbatch < 8
    assert first.local_steps * first.microbatch == pytest.approx(20 * 8, rel=0.2)
    times = [fleet.share(name).local_steps * fleet.step(name) for name in fleet.nodes]
    assert max(times) < 1.4 * min(times)
    as_asked = trained({"a": (0.02, "good"), "b": (0.02, "good")}, microbatch_min=1, batch="latency")
    assert as_asked.share("a").microbatch >= 8


@pytest.mark.parametrize(
    ("up", "down", "present", "expected"),
    [
        (0.5, 0.1, 1, 1),
        (2.2, 0.0, 1, 2),  # a little over is no reason for a third
        (2.2, 0.0, 2, 2),
        (3.2, 0.0, 2, 3),
        (1.0, 0.4, 1, 2),  # averages take most of the link: half of it is for uploads
        (99.0, 0.0, 1, 8),
        (0.1, 0.0, 5, 1),
    ],
)
def test_intervals_for_a_link(up: float, down: float, present: int, expected: int) -> None:
    assert intervals(Pace(step=0.1, up=up, down=down), 1.0, present, 8) == expected

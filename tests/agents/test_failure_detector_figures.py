"""Figures of nodes: what is odd of them, what is a trend, and what is neither."""

import random

import pytest
from failure_detector_world import Detected

from agents.failure_detector import FailureDetectorSettings, series
from schemas.health import FigureChanged
from schemas.nodes import NodeHeartbeat, WorkStarted
from schemas.training import StepTimed

SETTINGS = FailureDetectorSettings()


def kinds(values: list[float]) -> list[series.Kind]:
    """What is said of a figure with these values."""
    known = series.begin(values[0])
    return [kind for value in values[1:] if (kind := series.take(known, value, SETTINGS)) is not None]


def noise(rng: random.Random, count: int, mean: float = 100.0, part: float = 0.05) -> list[float]:
    return [mean * (1 + part * rng.gauss(0, 1)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_spikes_are_no_news(seed: int) -> None:
    rng = random.Random(seed)
    values = noise(rng, 1500)
    for at in range(100, 1500, 37):
        values[at] *= 10
    assert kinds(values) == []


def test_a_shift_is_odd_until_it_is_over_or_usual() -> None:
    rng = random.Random(1)
    assert kinds([*noise(rng, 300), *noise(rng, 20, 300.0), *noise(rng, 60)])[:2] == ["high", "usual"]
    assert kinds([*noise(rng, 300), *noise(rng, 20, 30.0)]) == ["low"]
    assert "usual" in kinds([*noise(rng, 300), *noise(rng, 4000, 300.0)])


def test_a_slow_leak_is_a_trend_long_before_it_is_odd() -> None:
    rng = random.Random(1)
    leak = [value * (1 + at / 900) for at, value in enumerate(noise(rng, 900))]
    assert kinds(leak) == ["rising"]
    assert kinds([value / (1 + at / 600) for at, value in enumerate(noise(rng, 900))]) == ["falling"]


def test_the_median_is_not_moved_by_what_it_finds() -> None:
    rng = random.Random(1)
    known = series.begin(100.0)
    for value in noise(rng, 400):
        series.take(known, value, SETTINGS)
    assert known.median == pytest.approx(100.0, abs=3.0)
    assert series.deviation(known) == pytest.approx(5.0, abs=2.5)
    for _ in range(10):
        series.take(known, 1e6, SETTINGS)
    assert known.median < 110.0


def test_a_figure_that_never_changes_is_steady_and_zero_is_no_trap() -> None:
    assert kinds([0.0] * 700) == []
    assert kinds([5.0] * 700) == []
    assert kinds([0.0] * 100 + [3.0] * 12) == ["high"]


def steps(world: Detected, milliseconds: list[float]) -> None:
    for each in milliseconds:
        world.hear(
            StepTimed(job="j", node="a", round=1, steps=10, samples=80, seconds=each / 100, microbatch=8, loss=1.0), 1
        )


def test_steps_that_take_longer_are_told_with_what_is_usual() -> None:
    rng = random.Random(1)
    world = Detected("a", "b")
    world.run(5)
    steps(world, [*noise(rng, 100), *noise(rng, 12, 300.0)])
    told = {changed.figure: changed for changed in world.all(FigureChanged)}
    assert (told["step_ms"].kind, told["samples_per_s"].kind) == ("high", "low")
    assert told["step_ms"].usual == pytest.approx(100, abs=10)
    assert "step_ms is" in told["step_ms"].reason


def test_another_process_is_another_load() -> None:
    world = Detected("a", "b")
    world.run(5)
    for load in (5.0, 95.0):
        for number in range(100):
            world.hear(NodeHeartbeat(node="a", sequence=1000 + number, interval=1.0, cpu_percent=load), 1)
        world.hear(WorkStarted(node="a", job="j", attempt=1, reason="it begins"), 1)
    assert world.all(FigureChanged) == []

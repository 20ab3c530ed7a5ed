"""Forecasts of links: periods, trends, whom to believe, and what the network monitor says of it."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.base import Publish
from agents.network_monitor import NetworkMonitor, NetworkMonitorSettings, forecast, judge, outlook
from agents.network_monitor.outlook import COARSE, FINE, Outlook, Series
from schemas.network import LinkForecast, LinkProbed, LinkQuality
from schemas.training import ContributionReceived
from schemas.wire import Message

START = 1_000_000.0


def square(count: int, period: int, low: int = 20, high: int = 70, noise: float = 0.0, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [round((high if n % period < period / 2 else low) + rng.gauss(0, noise)) for n in range(count)]


# Levels, trends, periods


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_has_a_level(value: float) -> None:
    assert 1 <= forecast.level_of(value, 4.0) <= 255


@pytest.mark.parametrize("value", [0.5, 3.0, 40.0, 200.0, 5000.0])
def test_a_level_tells_a_value_within_its_step(value: float) -> None:
    again = forecast.value_of(forecast.level_of(value, 4.0), 4.0)
    assert abs(math.log2((again + 4.0) / (value + 4.0))) <= 0.51 / forecast.LEVELS


@pytest.mark.parametrize("period", [4, 8, 13, 20, 36])
def test_a_pattern_s_period_is_found_through_noise(period: int) -> None:
    assert abs(forecast.period_of(square(96, period, noise=4.0)) - period) <= 0.5


def test_a_period_between_two_bins_is_found_by_its_multiples() -> None:
    levels = [70 if (n * 5.0) % 47.0 < 23.5 else 20 for n in range(96)]
    assert abs(forecast.period_of(levels) - 9.4) <= 0.2


def test_a_pattern_with_gaps_is_found() -> None:
    levels = square(96, 8)
    levels[10:13] = [0, 0, 0]
    assert forecast.period_of(levels) == pytest.approx(8, abs=0.4)


@pytest.mark.parametrize("levels", [[], [0] * 96, [40] * 96, list(range(1, 97)), square(12, 8)])
def test_what_has_no_period_or_too_few_of_them_is_told_none(levels: list[int]) -> None:
    assert forecast.period_of(levels) == 0.0


def test_noise_is_seldom_taken_for_a_pattern() -> None:
    rng = random.Random(3)
    taken = sum(forecast.period_of([rng.randint(20, 70) for _ in range(96)]) > 0 for _ in range(200))
    assert taken <= 4


def test_a_pattern_goes_on_as_in_its_last_periods() -> None:
    levels = square(96, 8)
    assert [forecast.by_pattern(levels, 8.0, steps) for steps in range(1, 17)] == square(112, 8)[96:]


@given(st.lists(st.integers(1, 255), min_size=1, max_size=60), st.integers(1, 12))
def test_a_trend_stays_within_the_levels(values: list[int], steps: int) -> None:
    level = trend = 0.0
    for value in values:
        level, trend = forecast.smoothed(level, trend, value)
    assert 1 <= forecast.by_trend(level, trend, steps) <= 255


def test_a_trend_is_carried_on_and_fades() -> None:
    level = trend = 0.0
    for value in range(20, 60, 2):
        level, trend = forecast.smoothed(level, trend, value)
    near, far = (forecast.by_trend(level, trend, steps) - level for steps in (1, 12))
    assert near > 0.5
    assert near < far < 12 * near


# Whom to believe


def play(levels: list[int]) -> tuple[Series, float]:
    """A series step by step; with it, what believed forecasts cost beyond persistence at worst, counted here afresh."""
    series, pending, cost, worst = Series(), [], 0.0, 0.0
    for count, value in enumerate(levels, 1):
        cost *= judge.MEMORY
        due = pending.pop(0) if len(pending) == FINE.wait else None
        if due is not None and value:
            last, believed = due
            cost += abs(value - believed) - abs(value - last)
            worst = max(worst, cost)
        outlook.step(series, value, count, FINE)
        believed = outlook.expected(series, FINE.wait) if series.record.believed != "none" else 0.0
        last = series.levels[-1]
        pending.append((last, believed) if last and believed else None)
        if not series.record.waiting:
            pending = []
    return series, worst


MOODS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 255), min_size=1, max_size=30),
        st.builds(square, st.integers(5, 80), st.integers(2, 30), st.integers(1, 120), st.integers(1, 255)),
        st.builds(
            lambda begin, step: [min(255, begin + step * n) for n in range(40)], st.integers(1, 200), st.integers(0, 6)
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(MOODS)
@settings(max_examples=20, deadline=None)
def test_forecasts_never_cost_more_than_their_budget(moods: list[list[int]]) -> None:
    series, worst = play([min(255, max(0, level)) for mood in moods for level in mood])
    assert worst <= judge.BUDGET + FINE.wait * forecast.HIGHEST
    record = series.record
    assert math.isfinite(record.error + record.spent + sum(record.saved.values()))
    assert len(record.waiting) <= FINE.wait
    assert len(series.levels) <= FINE.kept


def test_a_recurring_pattern_earns_belief_and_noise_does_not() -> None:
    series, worst = play(square(200, 8, noise=2.0))
    assert series.record.believed == "recurring"
    assert series.record.right >= 0.8 * series.record.made > 0
    assert worst < judge.BUDGET
    rng = random.Random(5)
    noise, _ = play([rng.randint(20, 70) for _ in range(200)])
    assert noise.record.believed != "recurring"


def test_a_pattern_that_breaks_off_is_no_longer_believed() -> None:
    before, _ = play(square(160, 8))
    believed = []
    for seed in range(20):
        rng = random.Random(seed)
        series, worst = play(square(160, 8) + [rng.choice([20, 70]) for _ in range(60)])
        assert worst <= judge.BUDGET + FINE.wait * 50
        believed.append(series.record.made - before.record.made)
    assert sum(believed) < 25 * 20, "some until it is noticed, and by chance now and then"


def test_a_link_that_stays_within_a_factor_of_two_isn_t_looked_at() -> None:
    series, _ = play(square(120, 8, low=40, high=48))
    assert series.record.judged == {}
    assert series.period == 0.0


# The monitor


def monitor(rtt: Callable[[int], float | None], seconds: int) -> tuple[NetworkMonitor, list[tuple[int, Message]]]:
    core = NetworkMonitor(NetworkMonitorSettings(), random.Random(0))
    said = []
    for second in range(seconds):
        effects = core.handle(LinkProbed(node="a", sequence=second, rtt_ms=rtt(second)), START + second)
        said += [(second, effect.message) for effect in effects if isinstance(effect, Publish)]
        core.check()
    return core, said


def alternating(second: int) -> float:
    """Good and poor, 20 s each."""
    rng = random.Random(second)
    return rng.uniform(150, 300) if second // 20 % 2 else rng.uniform(10, 50)


def forecasts(said: list[tuple[int, Message]]) -> list[tuple[int, LinkForecast]]:
    return [(second, message) for second, message in said if isinstance(message, LinkForecast)]


def test_a_link_that_changes_every_20_s_is_foreseen() -> None:
    _, said = monitor(alternating, 900)
    told = forecasts(said)
    assert told[0][0] < 240, "four minutes are six periods"
    assert [message.version for _, message in told] == list(range(1, len(told) + 1))
    right = total = 0
    for second, message in told:
        assert message.method == "recurring"
        assert message.period_seconds == pytest.approx(40, abs=2)
        for ahead in range(2, 58, 5):
            part = [part for part in message.ahead if part.from_seconds <= ahead][-1]
            total += 1
            right += (part.latency_ms > 80) == bool((second + 1 + ahead) // 20 % 2)
    assert right >= 0.85 * total
    last = told[-1][1]
    assert 0.8 <= last.right / last.made <= 1
    assert last.gain > 0.5


def test_nothing_is_foreseen_of_a_steady_or_a_random_link() -> None:
    for rtt in (lambda second: 30.0 + second % 7, lambda second: random.Random(second).uniform(50, 500)):
        _, said = monitor(rtt, 900)
        assert forecasts(said) == []


def test_a_forecast_is_taken_back_when_the_pattern_ends() -> None:
    _, said = monitor(lambda second: alternating(second) if second < 600 else 30.0, 1500)
    last = forecasts(said)[-1][1]
    assert (last.method, last.ahead) == ("none", ())


def test_rates_of_uploads_are_foreseen_where_the_round_trip_tells_nothing() -> None:
    core = NetworkMonitor(NetworkMonitorSettings(), random.Random(0))
    told = []
    for second in range(900):
        now = START + second
        effects = core.handle(LinkProbed(node="a", sequence=second, rtt_ms=30.0), now)
        told += [e.message for e in effects if isinstance(e, Publish) and isinstance(e.message, LinkForecast)]
        if second % 4 == 0:
            rate = 1e6 if second // 20 % 2 else 2e7
            event = ContributionReceived(job="j", node="r", contributor="a", round=1, size=round(rate), seconds=1.0)
            assert core.handle(event, now) == []
    assert told
    assert {round(math.log10(part.rate), 1) for part in told[-1].ahead if part.rate} == {6.0, 7.3}


def test_a_monitor_without_memory_goes_on_counting_its_forecasts() -> None:
    _, said = monitor(alternating, 400)
    last = forecasts(said)[-1][1]
    core = NetworkMonitor(NetworkMonitorSettings(), random.Random(0))
    core.handle(last, START)
    assert core.state.links["a"].outlook.version == last.version
    assert core.state.links["a"].outlook.told


def test_a_daily_pattern_is_foreseen() -> None:
    seen, now, good, bad = Outlook(), 0.0, [30.0] * 2, [220.0] * 2
    for _ in range(round(3 * 86_400 / FINE.seconds)):
        evening = 18 <= now / 3600 % 24 < 23
        outlook.close(seen, bad if evening else good, now)
        now += FINE.seconds
    assert seen.coarse is not None
    series = seen.coarse.round_trip
    assert series.period * COARSE.seconds == pytest.approx(86_400, rel=0.02)
    assert series.record.believed == "recurring"
    assert outlook.faults(seen) == []
    evening_ahead = outlook.expected(series, round(20 * 3600 / COARSE.seconds))
    assert forecast.value_of(evening_ahead, forecast.LATENCY_UNIT_MS) == pytest.approx(220, rel=0.1)


@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 1e5)), st.sampled_from([1, 1, 1, 7, 400])), max_size=120))
@settings(max_examples=20, deadline=None)
def test_whatever_a_link_does_its_past_stays_bounded(steps: list[tuple[float | None, int]]) -> None:
    core, now = NetworkMonitor(NetworkMonitorSettings(), random.Random(0)), START
    for number, (rtt, gap) in enumerate(steps):
        now += gap
        for effect in core.handle(LinkProbed(node="a", sequence=number, rtt_ms=rtt), now):
            if isinstance(effect, Publish) and isinstance(effect.message, LinkForecast):
                for part in effect.message.ahead:
                    assert part.quality is not LinkQuality.OFFLINE
                    assert part.latency_low_ms <= part.latency_ms <= part.latency_high_ms
                    assert 0 <= part.loss <= 1
        core.check()

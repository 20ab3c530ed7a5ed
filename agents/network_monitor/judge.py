"""Which method of forecasting has earned to be believed, from what became of its forecasts.

Every method forecasts all the time, `wait` steps ahead, believed or not; its errors are compared with those of persistence
("as it is now"). A method is believed while it was clearly better of late, and nothing is while the forecasts that were
believed have spent their budget: the sum of what they were worse by than persistence, forgetting a 64th with each step. So
forecasts can't cost more than a bounded amount over persistence, whatever the series does:

    sum of 0.984^age x (error of what was believed - error of persistence) <= BUDGET + wait x 255

since nothing is believed above BUDGET, and only the `wait` forecasts that are under way can still come.
"""

from typing import Literal

import msgspec

from agents.network_monitor import forecast

Method = Literal["none", "trend", "recurring"]

GAIN = 1 / 32
"""Weight of the newest error in the means, once there are so many; before that all weigh the same."""

MEMORY = 1 - 1 / 64
"""What of the budget's spending still counts one step later: a method that lost it is tried again after a minute or two."""

BUDGET = 48.0
"""Levels by which believed forecasts may be worse in all: four factors of two, or a link's grade for a minute."""

CREDIT = 24.0
"""Levels that good forecasts may save up at most, half the budget: a pattern that breaks off is given up the sooner."""

PROBATION = 12
"""Forecasts of a method that are judged before it may be believed: a minute of five-second bins."""

BETTER = 0.25
"""Part of persistence's error that a method must avoid to be believed, and half of it to stay so: with errors that are as
large as those of a link thrown to and fro by chance, the mean of 63 (2 / `GAIN` - 1) wavers by half of that."""

NORMAL_90 = 2.06
"""Half the width of an interval that holds 90 %, over the mean absolute error, where errors are normal: 1.645 x
sqrt(pi / 2). Whether it does is counted (`right` of `made`)."""


class Expected(msgspec.Struct, array_like=True):
    """Forecasts of one value, made `wait` steps before it; 0 where a method had none."""

    last: float
    trend: float
    recurring: float
    believed: Method


class Judge(msgspec.Struct, kw_only=True):
    """The record of the forecasts of one series."""

    waiting: list[Expected] = []
    """Not judged yet, oldest first."""
    error: float = 0.0
    """Mean absolute error of persistence, in levels."""
    saved: dict[Method, float] = {}
    """By how much a method's error is smaller, in the mean; negative: larger."""
    judged: dict[Method, int] = {}
    """Forecasts of a method that were judged, as far as that matters."""
    weighed: int = 0
    """Forecasts of persistence that were judged, likewise."""
    spent: float = 0.0
    """What of the budget is spent; negative where forecasts were better than persistence."""
    believed: Method = "none"
    made: int = 0
    """Forecasts believed that were judged."""
    right: int = 0
    """Those whose interval held what came."""


def width(judge: Judge) -> float:
    """Half the width of the 90 % interval of what is believed now, in levels."""
    return NORMAL_90 * max(0.5, judge.error - judge.saved.get(judge.believed, 0.0))


def gain(judge: Judge) -> float:
    """Part of persistence's error that what is believed avoids, 0 to 1."""
    if judge.error <= 0:
        return 0.0
    return min(1.0, max(0.0, judge.saved.get(judge.believed, 0.0) / judge.error))


def expect(judge: Judge, levels: bytearray, holt: tuple[float, float], period: float, wait: int) -> None:
    """Forecast the value that is `wait` steps on, by all methods."""
    recurring = forecast.by_pattern(levels, period, wait) if period else 0.0
    trend = forecast.by_trend(*holt, wait) if holt[0] else 0.0
    judge.waiting.append(Expected(levels[-1], trend, recurring, judge.believed))


def judge_one(judge: Judge, value: int, wait: int) -> None:
    """Compare what was expected of this step with what came (0: nothing did), and settle whom to believe."""
    judge.spent *= MEMORY
    if len(judge.waiting) >= wait:
        expected = judge.waiting.pop(0)
        if value and expected.last:
            _weigh(judge, expected, value)
    judge.believed = _choice(judge)


def _weigh(judge: Judge, expected: Expected, value: int) -> None:
    plain = abs(value - expected.last)
    believed = expected.trend if expected.believed == "trend" else expected.recurring
    if expected.believed != "none" and believed:
        judge.made += 1
        judge.right += abs(value - believed) <= width(judge)
        judge.spent += abs(value - believed) - plain
    judge.weighed = min(judge.weighed + 1, round(1 / GAIN))
    judge.error += (plain - judge.error) / judge.weighed
    both: tuple[tuple[Method, float], ...] = (("trend", expected.trend), ("recurring", expected.recurring))
    for method, guess in both:
        if not guess:
            continue
        judge.judged[method] = min(judge.judged.get(method, 0) + 1, round(1 / GAIN))
        before = judge.saved.get(method, 0.0)
        judge.saved[method] = before + (plain - abs(value - guess) - before) / judge.judged[method]
    judge.spent = max(judge.spent, -CREDIT)


def _choice(judge: Judge) -> Method:
    """The method that avoids most of persistence's error, if it has earned it and the budget isn't spent."""
    if judge.spent > BUDGET:
        return "none"
    methods: tuple[Method, ...] = ("recurring", "trend")
    worthy = [
        method
        for method in methods
        if judge.judged.get(method, 0) >= PROBATION
        and judge.saved.get(method, 0.0) > BETTER * judge.error * (0.5 if method == judge.believed else 1.0)
    ]
    return max(worthy, key=lambda method: judge.saved[method], default="none")

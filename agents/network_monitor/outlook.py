"""What is remembered of one link for forecasts: bins of five seconds for eight minutes, of fifteen minutes for three days.

The short ones see a link that changes every few seconds or minutes, the long ones a neighbourhood that comes home at six.
A bin holds levels (`forecast.level_of`) of the round trip, its jitter, the loss and the rate of uploads: a byte each.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

import msgspec

from agents.network_monitor import forecast, judge
from agents.network_monitor.judge import Judge

LOSS_LEVELS = 250
"""Levels of the loss: its fraction in 250ths, and 1 for none."""

RESTLESS = 12
"""Levels between the lowest and the highest bin from which a link is looked at closer: a factor of two."""


class Scale(NamedTuple):
    """How a link's past is cut into bins."""

    seconds: float
    kept: int
    wait: int
    """Bins ahead that forecasts are judged at."""
    reach: int
    """Bins ahead that forecasts go."""
    every: int
    """Bins between two looks for a period, and between two forecasts that are told."""


FINE: Final = Scale(seconds=5.0, kept=96, wait=3, reach=12, every=6)
"""Five probes to a bin. Judged at 15 s, about when a round planned now sends its differences; a minute ahead in all."""

COARSE: Final = Scale(seconds=900.0, kept=288, wait=1, reach=4, every=1)
"""Three days, so that a day is there two and a half times; an hour ahead."""


class Series(msgspec.Struct, kw_only=True):
    """The levels of one quantity, and the record of its forecasts."""

    levels: bytearray = msgspec.field(default_factory=bytearray)
    """Oldest first; 0: not measured."""
    level: float = 0.0
    trend: float = 0.0
    """Of Holt's smoothing."""
    period: float = 0.0
    """In bins; 0 without one."""
    record: Judge = msgspec.field(default_factory=Judge)


class Bins(msgspec.Struct, kw_only=True):
    """A link's past on one scale."""

    round_trip: Series = msgspec.field(default_factory=Series)
    rate: Series = msgspec.field(default_factory=Series)
    jitter: bytearray = msgspec.field(default_factory=bytearray)
    loss: bytearray = msgspec.field(default_factory=bytearray)
    count: int = 0
    """Bins that were closed."""


class Outlook(msgspec.Struct, kw_only=True):
    """A link's past and what was said of its future."""

    due: float = 0.0
    """When the present fine bin ends, in terms of `now`; 0 before the first probe."""
    probes: int = 0
    """Of the present bin."""
    rates: list[float] = []
    """Of the uploads that ended in the present bin, bytes a second."""
    fine: Bins = msgspec.field(default_factory=Bins)
    coarse: Bins | None = None
    """None before its first bin is full."""
    sums: list[int] = msgspec.field(default_factory=lambda: [0] * 8)
    """Of the coarse bin that fills: for each quantity the sum of its levels, and how many there were."""
    version: int = 0
    """Of the last forecast that was told."""
    told: bool = False
    """The last word was a forecast, which stands until it is taken back."""


class Moment(NamedTuple):
    """Levels of one bin; 0 for what was not measured."""

    round_trip: int
    jitter: int
    loss: int
    rate: int


_NOTHING: Final = Moment(0, 0, 0, 0)


def close(outlook: Outlook, probes: Sequence[float], now: float) -> list[Bins]:
    """End the bins that are over, the newest with these probes in it (milliseconds; below 0: lost).

    Gives the scales on which a bin has ended.
    """
    missed = min(int((now - outlook.due) / FINE.seconds), FINE.kept) if outlook.due else 0
    present = _moment(probes, outlook.rates)
    outlook.due, outlook.probes, outlook.rates = now + FINE.seconds, 0, []
    ended = [outlook.fine]
    for moment in (*(_NOTHING,) * missed, present):
        _add(outlook.fine, moment, FINE)
        if moment is not _NOTHING:
            for place, level in enumerate(moment):
                outlook.sums[2 * place] += level
                outlook.sums[2 * place + 1] += level > 0
        if outlook.fine.count % round(COARSE.seconds / FINE.seconds) == 0:
            sums, outlook.sums = outlook.sums, [0] * 8
            outlook.coarse = outlook.coarse or Bins()
            means = (round(sums[place] / max(1, sums[place + 1])) for place in range(0, 8, 2))
            _add(outlook.coarse, Moment(*means), COARSE)
            ended.append(outlook.coarse)
    return ended


def _moment(probes: Sequence[float], rates: Sequence[float]) -> Moment:
    answered = [entry for entry in probes if entry >= 0]
    steps = [abs(after - before) for before, after in pairwise(answered)]
    lost = len(probes) - len(answered)
    return Moment(
        round_trip=forecast.level_of(median(answered), forecast.LATENCY_UNIT_MS) if answered else 0,
        jitter=forecast.level_of(math.fsum(steps) / len(steps), forecast.LATENCY_UNIT_MS) if steps else 0,
        loss=1 + round(LOSS_LEVELS * lost / len(probes)) if probes else 0,
        rate=forecast.level_of(median(rates), forecast.RATE_UNIT) if rates else 0,
    )


def _add(bins: Bins, moment: Moment, scale: Scale) -> None:
    bins.count += 1
    step(bins.round_trip, moment.round_trip, bins.count, scale)
    step(bins.rate, moment.rate, bins.count, scale)
    bins.jitter.append(moment.jitter)
    bins.loss.append(moment.loss)
    if len(bins.loss) > scale.kept:
        del bins.jitter[0], bins.loss[0]


def step(series: Series, value: int, count: int, scale: Scale) -> None:
    """One more level: judge what was forecast of it, and forecast again where the series moves at all."""
    series.levels.append(value)
    if len(series.levels) > scale.kept:
        del series.levels[0]
    if not value and not series.level and not series.record.waiting:
        return  # it was calm, and nothing new is known of it
    if calm(series.levels):
        if series.level:
            series.level = series.trend = series.period = 0.0
            series.record.waiting, series.record.believed = [], "none"
        return
    judge.judge_one(series.record, value, scale.wait)
    if value:
        series.level, series.trend = forecast.smoothed(series.level, series.trend, value)
    if count % scale.every == 0:
        series.period = forecast.period_of(series.levels)
    judge.expect(series.record, series.levels, (series.level, series.trend), series.period, scale.wait)


def calm(levels: bytearray) -> bool:
    """Whether all that was measured lies within a factor of two: forecasting that isn't worth its time."""
    known = levels.replace(b"\0", b"")
    return not known or max(known) - min(known) < RESTLESS


def expected(series: Series, steps: int) -> float:
    """The level so many bins on, by the method that is believed; 0 where it isn't known."""
    if series.record.believed == "recurring" and series.period:
        return forecast.by_pattern(series.levels, series.period, steps)
    if series.record.believed == "trend" and series.level:
        return forecast.by_trend(series.level, series.trend, steps)
    return float(series.levels[-1]) if series.levels else 0.0


def faults(outlook: Outlook) -> list[str]:
    """What is wrong with a link's outlook, in words; nothing, if all is well."""
    wrong = []
    for name, bins, scale in (("fine", outlook.fine, FINE), ("coarse", outlook.coarse, COARSE)):
        if bins is None:
            continue
        rtt, rate, most = bins.round_trip.levels, bins.rate.levels, scale.kept
        if len(rtt) > most or len(rate) > most or len(bins.jitter) > most or len(bins.loss) > most:
            wrong.append(f"more {name} bins than are kept")
        for series in (bins.round_trip, bins.rate):
            record = series.record
            if len(record.waiting) > scale.wait:
                wrong.append(f"{name}: too many forecasts wait for judgement")
            if record.spent > judge.BUDGET + scale.wait * forecast.HIGHEST:
                wrong.append(f"{name}: forecasts have cost more than their budget")
            if not 0 <= record.right <= record.made:
                wrong.append(f"{name}: more forecasts were right than were made")
    return wrong

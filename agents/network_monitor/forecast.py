"""What comes next in a series of levels: as now, on with the trend, or as it was a period ago.

Levels are whole numbers from 1 to 255, on a scale where equal steps are equal factors (`LEVELS` to a factor of two), and 0
where nothing was measured. A byte each keeps days of a link in a few hundred bytes.

Three methods, from the plainest on: the last value (persistence); damped Holt smoothing (Gardner and McKenzie, Forecasting
trends in time series, Management Science 31, 1985; Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 3rd
ed., section 8.2); and the seasonal naive method (same book, section 5.2), as the median of the last three periods, whose
length comes from the autocorrelation (section 2.8).
"""

import math
from collections.abc import Sequence
from operator import mul
from statistics import median

LEVELS = 12
"""Levels to a factor of two: steps of 6 %, finer than a link stays the same."""

HIGHEST = 255

LATENCY_UNIT_MS = 4.0
"""Round trips well under it are one level: no decision looks at such differences."""

RATE_UNIT = 1024.0
"""Bytes a second under which a line is as good as none; 255 levels above it are 2 GB/s."""

LEVEL_GAIN = 0.5
"""Holt's alpha: a bin is a median of several probes already, so the newest counts half."""

TREND_GAIN = 0.2
"""Holt's beta: five bins make a trend."""

DAMPING = 0.9
"""Holt's phi: trends don't last; 0.8 to 0.98 is usual (section 8.2)."""

PERIODS = 3
"""Periods that a recurring pattern is read from: the median outvotes one odd period."""

CORRELATION = 0.5
"""Autocorrelation from which a pattern is worth following; at least 2 / sqrt(n), which noise exceeds once in 20 lags."""

ALMOST = 0.75
"""Part of the best autocorrelation at which a shorter period is taken: its multiples correlate as well."""


def level_of(value: float, unit: float) -> int:
    """1 to 255; 1 for nothing or less, and for what is no number."""
    if not value > 0:
        return 1
    return min(HIGHEST, 1 + round(LEVELS * math.log2(1.0 + min(value, 1e30) / unit)))


def value_of(level: float, unit: float) -> float:
    """What a level stands for."""
    return float(unit * (2.0 ** (max(0.0, level - 1.0) / LEVELS) - 1.0))


def filled(levels: Sequence[int]) -> list[int]:
    """Without gaps: each gap as the value before it (or the first there is); empty where there is none."""
    last = next((level for level in levels if level), 0)
    found = []
    for level in levels:
        last = level or last
        found.append(last)
    return found if last else []


def smoothed(level: float, trend: float, value: int) -> tuple[float, float]:
    """Holt's (level, trend) after one more value; a level of 0 is a beginning."""
    if level <= 0:
        return float(value), 0.0
    now = LEVEL_GAIN * value + (1 - LEVEL_GAIN) * (level + DAMPING * trend)
    return now, TREND_GAIN * (now - level) + (1 - TREND_GAIN) * DAMPING * trend


def by_trend(level: float, trend: float, steps: int) -> float:
    """The level so many steps on: each step takes a damped one of the trend."""
    reach = DAMPING * (1 - DAMPING**steps) / (1 - DAMPING)
    return min(float(HIGHEST), max(1.0, level + reach * trend))


def places_of(count: int, period: float, steps: int) -> list[int]:
    """Where, among `count` values, those stand that were a whole number of periods before the one `steps` on."""
    first = max(1, math.ceil(steps / period - 1e-9))
    places = (count - 1 + steps - round(times * period) for times in range(first, first + PERIODS))
    return [place for place in places if 0 <= place < count]


def by_pattern(levels: Sequence[int], period: float, steps: int) -> float:
    """The level so many steps on, as it was in the same place of the last periods; 0 where none is known."""
    known = [levels[place] for place in places_of(len(levels), period, steps) if levels[place]]
    return float(median(known)) if known else 0.0


def period_of(levels: Sequence[int]) -> float:
    """The period of a series in its own steps, a fraction of one included; 0 where it has none.

    A peak of the autocorrelation after its first negative value, at a lag of which there are two and a half; of several
    that are nearly as high the shortest. Its third and second multiple, where there are so many, tell the fraction.
    """
    series = filled(levels)
    count = len(series)
    mean = sum(series) / count if count else 0.0
    apart = [value - mean for value in series]
    power = sum(map(mul, apart, apart))
    if count < 5 or power <= count:  # less than a level of standard deviation
        return 0.0
    most = 2 * count // 5
    found = [sum(map(mul, apart, apart[lag:])) / power * count / (count - lag) for lag in range(most + 1)]
    begin = next((lag for lag, value in enumerate(found) if value < 0), most)
    peaks = [
        lag
        for lag in range(max(begin, 2), most)
        if found[lag] >= max(found[lag - 1], found[lag + 1], CORRELATION, 2 / math.sqrt(count))
    ]
    if not peaks:
        return 0.0
    best = max(found[lag] for lag in peaks)
    shortest = next(lag for lag in peaks if found[lag] >= ALMOST * best)
    for times in (3, 2):
        if times * shortest + times <= most:
            near = range(times * shortest - times + 1, times * shortest + times)
            return max(near, key=lambda lag: found[lag]) / times
    return float(shortest)

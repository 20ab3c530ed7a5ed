"""What is usual of a figure, and what isn't: a running median and deviation, and a trend over blocks of values.

Median and median absolute deviation (Hampel, JASA 69, 1974) aren't moved by the very values that they are to find. Both are
followed by stochastic approximation, a step up for a value above and down for one below, so that a figure takes a dozen
numbers. A trend is that of Mann and Kendall (Econometrica 13, 1945) over means of blocks, its slope that of Theil and Sen.
"""

from itertools import combinations
from typing import Literal

import msgspec

from agents.failure_detector.settings import FailureDetectorSettings

Kind = Literal["usual", "high", "low", "rising", "falling"]

STEP = 0.05
"""Of the deviation, by which a value moves the median: some hundred values are remembered."""
MAD_TO_DEVIATION = 1.4826
"""Of a normal distribution."""
FINEST = 0.01
"""Of the median: no figure is steadier than a hundredth."""
EARLY = 20
"""Values over which it is found at first, in larger steps."""
EARLY_PACE, ODD_PACE = 10.0, 0.2
"""Factors of a step: until it is found; and for odd values, so that a new level becomes usual within some hundreds."""
BLOCKS = 8
"""In which a trend is looked for: eight values in order come by chance in one of 40,000 cases."""
ORDERED = 24
"""Of the 28 pairs of eight blocks, by which rising ones must outnumber falling ones: by chance in one case of 1,000."""


class Series(msgspec.Struct, kw_only=True, array_like=True):
    """One figure of one node."""

    count: int = 0
    median: float
    mad: float
    """Median absolute deviation."""
    odd: int = 0
    """Values in a row beyond what is usual: above if positive, under if negative."""
    calm: int = 0
    """Values in a row within it."""
    said: Kind = "usual"
    block: float = 0.0
    """Sum of the values of the block under way."""
    blocks: list[float] = []
    """Means of the last ones."""


def begin(value: float) -> Series:
    """A figure's first value."""
    return Series(median=value, mad=abs(value) * FINEST)


def deviation(series: Series) -> float:
    """Robust standard deviation."""
    return MAD_TO_DEVIATION * max(series.mad, FINEST * abs(series.median))


def take(series: Series, value: float, settings: FailureDetectorSettings) -> Kind | None:
    """Take a value in; gives what is to be said of the figure now, if that is news."""
    distance, size = value - series.median, abs(series.median)
    far = abs(distance) > settings.odd_part * size  # seldom, and the deviation need not be looked at otherwise
    odd = far and abs(distance) > settings.odd_deviations * deviation(series)
    series.odd = 0 if not odd else max(1, series.odd + 1) if distance > 0 else min(-1, series.odd - 1)
    series.calm = 0 if odd else series.calm + 1
    _learn(series, value, odd=odd)
    series.block += value
    trend = None if series.count % settings.block_values else _trend(series, settings)
    if series.count <= settings.figure_values:
        return None
    if trend is None and not series.odd and series.said not in ("high", "low"):
        return None  # nearly always
    kind: Kind | None = None
    if series.said not in ("high", "low") and abs(series.odd) >= settings.odd_values:
        kind = "high" if series.odd > 0 else "low"
    elif series.said in ("high", "low") and series.calm >= settings.odd_values:
        kind = "usual"
    elif trend is not None and series.said not in ("high", "low") and trend != series.said:
        kind = trend
    if kind is not None:
        series.said = kind
    return kind


def _learn(series: Series, value: float, *, odd: bool) -> None:
    series.count += 1
    pace = EARLY_PACE if series.count <= EARLY else ODD_PACE if odd else 1.0
    middle, mad = series.median, series.mad
    finest = FINEST * abs(middle)
    step = pace * STEP * ((mad if mad > finest else finest) or abs(value) * FINEST)
    if value != middle:
        middle = series.median = middle + step if value > middle else middle - step
    mad += step if abs(value - middle) > mad else -step
    series.mad = mad if mad > 0.0 else 0.0


def _trend(series: Series, settings: FailureDetectorSettings) -> Kind | None:
    """At the end of a block: whether the last ones rise or fall; `usual` where they don't, None where they are too few."""
    series.blocks = [*series.blocks[1 - BLOCKS :], series.block / settings.block_values]
    series.block = 0.0
    if len(series.blocks) < BLOCKS:
        return None
    order = sum((later > earlier) - (later < earlier) for earlier, later in combinations(series.blocks, 2))
    grown = slope(series.blocks) * (BLOCKS - 1)
    ease = 0.5 if series.said in ("rising", "falling") else 1.0  # a trend that was told ends at half of what began it
    if abs(order) < ease * ORDERED or abs(grown) < ease * settings.trend_part * abs(series.blocks[0]):
        return "usual"
    return "rising" if order > 0 else "falling"


def slope(blocks: list[float]) -> float:
    """Median of the slopes of all pairs: change from one block to the next."""
    slopes = sorted((blocks[j] - blocks[i]) / (j - i) for i, j in combinations(range(len(blocks)), 2))
    middle = len(slopes) // 2
    return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2

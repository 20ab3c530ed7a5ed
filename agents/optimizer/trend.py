"""Whether a loss has stopped falling, told from noise."""

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import NamedTuple

# Two standard errors: some 95 % of a normal distribution lie within.
SURE = 2.0
# No loss of a job that still learns comes near it, and its square is still a number.
BEYOND_USE = 1e100


class Fall(NamedTuple):
    """How much a series falls over some of its steps, relative to its mean."""

    likely: float
    error: float
    """Standard error of it."""

    @property
    def most(self) -> float:
        """Surely no more than this."""
        return self.likely + SURE * self.error


def fall(values: Sequence[float], steps: int) -> Fall | None:
    """The relative fall of equally spaced values over `steps` of them, by least squares; None under three values or where
    they are beyond use (not finite, or so large that their squares wouldn't be).

    slope = sum((x - mean x)(y - mean y)) / sum((x - mean x)^2), with the standard error sqrt(residual variance /
    sum((x - mean x)^2)) on n - 2 degrees of freedom (Draper and Smith, Applied Regression Analysis, section 1.4).
    """
    count = len(values)
    if count < 3 or not all(abs(value) < BEYOND_USE for value in values):
        return None
    middle = (count - 1) / 2
    mean = sum(values) / count
    spread = sum((x - middle) ** 2 for x in range(count))
    slope = sum((x - middle) * (value - mean) for x, value in enumerate(values)) / spread
    residual = sum((value - mean - slope * (x - middle)) ** 2 for x, value in enumerate(values))
    error = sqrt(residual / (count - 2) / spread)
    scale = steps / max(abs(mean), 1e-12)
    return Fall(-slope * scale, error * scale)


def is_flat(values: Sequence[float], window: int, least: float) -> bool:
    """Whether it is sure that the values now fall by less than `least` in `window` steps.

    The upper end of the confidence interval counts: where noise hides the slope nothing is said, so noise alone never
    makes a job look converged. Longer stretches see through more noise. A loss that rises is not flat either, but trouble.
    """
    return any(found.most < least and found.likely > -least for found in _stretches(values, window))


def moves(values: Sequence[float], window: int, least: float) -> bool:
    """Whether it is sure that the values fall or rise by more than twice `least` in `window` steps: flat no longer."""
    return any(abs(found.likely) - SURE * found.error > 2 * least for found in _stretches(values, window))


def _stretches(values: Sequence[float], window: int) -> Iterator[Fall]:
    """The fall per window over the last one, two and three windows, as far as there are values."""
    for length in (window, 2 * window, 3 * window):
        found = fall(values[-length:], window) if len(values) >= length else None
        if found is not None:
            yield found

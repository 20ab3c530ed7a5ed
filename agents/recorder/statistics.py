"""Rolling statistics of a stream of figures, in constant memory.

Mean and variance by Welford's method ("Note on a method for calculating corrected sums of squares and products",
Technometrics 4(3), 1962), which loses no digits where the mean is large and the spread small. Two neighbouring windows
are put together by the pairwise formula of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for
computing sample variances", 1979), so that a figure always stands for one to two windows.
"""

import math

import msgspec


class Window(msgspec.Struct, kw_only=True):
    """Figures of one stretch of time."""

    start: float
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, value: float) -> None:
        """One figure more."""
        self.count += 1
        distance = value - self.mean
        self.mean += distance / self.count
        self.squares += distance * (value - self.mean)
        self.low = min(self.low, value)
        self.high = max(self.high, value)

    @property
    def deviation(self) -> float:
        """Standard deviation of the figures (n - 1); 0 for a single one."""
        return math.sqrt(max(0.0, self.squares) / (self.count - 1)) if self.count > 1 else 0.0


def together(one: Window, two: Window) -> Window:
    """The window of both windows' figures."""
    count = one.count + two.count
    if count == 0:
        return Window(start=min(one.start, two.start))
    distance = two.mean - one.mean
    return Window(
        start=min(one.start, two.start),
        count=count,
        mean=one.mean + distance * two.count / count,
        squares=one.squares + two.squares + distance * distance * one.count * two.count / count,
        low=min(one.low, two.low),
        high=max(one.high, two.high),
    )


class Series(msgspec.Struct, kw_only=True):
    """One figure of one node over time."""

    window: Window
    before: Window | None = None
    """The last full window, unless it is long past."""
    average: float = 0.0
    """Exponentially weighted by age, for figures that come at uneven times."""
    updated: float = 0.0

    @classmethod
    def begin(cls, value: float, now: float) -> "Series":
        """A series with its first figure."""
        series = cls(window=Window(start=now), average=value, updated=now)
        series.window.add(value)
        return series

    def add(self, value: float, now: float, window_seconds: float, average_seconds: float) -> Window | None:
        """One figure more; gives the window that it closed, if it did."""
        closed = None
        age = now - self.window.start
        if age >= window_seconds:
            closed = self.window
            self.before = closed if age < 2 * window_seconds else None
            self.window = Window(start=now)
        self.window.add(value)
        keep = math.exp(-max(0.0, now - self.updated) / average_seconds)
        self.average = keep * self.average + (1 - keep) * value
        self.updated = max(self.updated, now)
        return closed

    def recent(self) -> Window:
        """The last one to two windows together."""
        return self.window if self.before is None else together(self.before, self.window)

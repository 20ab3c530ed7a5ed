"""Clocks that are wrong, as those of real machines are."""

# Seconds since the epoch at virtual time 0: any moment would do; this one is a round number in 2023.
EPOCH = 1_700_000_000.0


class SkewedClock:
    """A machine's clock: `skew` seconds off, and fast by the fraction `drift` (slow if negative).

    At virtual time t it shows `base + t * rate`.
    """

    __slots__ = ("base", "rate")

    def __init__(self, skew: float = 0.0, drift: float = 0.0) -> None:
        self.base = EPOCH + skew
        self.rate = 1.0 + drift

    def now(self, virtual: float) -> float:
        """What it shows at a virtual time."""
        return self.base + virtual * self.rate

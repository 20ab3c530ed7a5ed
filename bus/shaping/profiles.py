"""What a link is like: the figures that an emulated link is made from, and the five that have names."""

import math
from dataclasses import dataclass, replace

from schemas.errors import ShoalError


class BadProfile(ShoalError):
    """A link's figures make no sense. Attributes: `field`, `value`."""

    def __init__(self, field: str, value: object, mend: str) -> None:
        super().__init__(f"link profile: {field} can't be {value!r}: {mend}")
        self.field = field
        self.value = value


class UnknownProfile(ShoalError):
    """No profile goes by this name. Attributes: `name`, `known`."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"there is no link profile {name!r}: use one of {', '.join(known)}")
        self.name = name
        self.known = known


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """One access link, the same in both directions. Raises `BadProfile` for figures that make no sense."""

    name: str
    round_trip_ms: tuple[float, float]
    """Least and greatest round trip of an empty link; the present one wanders between them."""
    loss: float
    """Fraction of round trips that lose a packet on the way there or back, 0 to below 1."""
    rate_mbit: float
    """Mbit/s of packets, headers included, each way."""
    queue_ms: float
    """How long the queue in front of the transmitter gets before it takes no more."""
    jitter_ms: float = 100.0
    """Mean time in which the round trip wanders from one value to the next; short is jittery, long is slow."""

    def __post_init__(self) -> None:
        low, high = self.round_trip_ms
        if not 0.0 <= low <= high < math.inf:
            raise BadProfile("round_trip_ms", self.round_trip_ms, "give the least and the greatest, both at least 0")
        if not 0.0 <= self.loss < 1.0:
            raise BadProfile("loss", self.loss, "give a fraction from 0 to below 1")
        for field in ("rate_mbit", "jitter_ms"):
            if not 0.0 < getattr(self, field) < math.inf:
                raise BadProfile(field, getattr(self, field), "give a number above 0")
        if not 0.0 <= self.queue_ms < math.inf:
            raise BadProfile("queue_ms", self.queue_ms, "give a number of at least 0")

    @property
    def one_way_loss(self) -> float:
        """Probability that a packet is lost in one direction: both together make `loss`."""
        return 1.0 - math.sqrt(1.0 - self.loss)

    @property
    def round_trip(self) -> tuple[float, float]:
        """Least and greatest round trip in seconds."""
        low, high = self.round_trip_ms
        return low / 1e3, high / 1e3

    @property
    def rate(self) -> float:
        """Bytes a second, headers included, each way."""
        return self.rate_mbit * 1e6 / 8

    @property
    def queue(self) -> float:
        """Seconds that a packet may wait in the queue."""
        return self.queue_ms / 1e3

    def slower_by(self, extra_ms: float) -> "LinkProfile":
        """The same link with a longer round trip, as in a latency spike."""
        low, high = self.round_trip_ms
        return replace(self, round_trip_ms=(low + extra_ms, high + extra_ms))


PROFILES: dict[str, LinkProfile] = {
    profile.name: profile
    for profile in (
        LinkProfile(name="perfect", round_trip_ms=(0, 1), loss=0.0, rate_mbit=1000, queue_ms=50),
        LinkProfile(name="good", round_trip_ms=(10, 50), loss=0.001, rate_mbit=200, queue_ms=100),
        LinkProfile(name="average", round_trip_ms=(50, 150), loss=0.01, rate_mbit=50, queue_ms=100),
        LinkProfile(name="poor", round_trip_ms=(150, 300), loss=0.05, rate_mbit=20, queue_ms=200),
        LinkProfile(name="unstable", round_trip_ms=(50, 500), loss=0.10, rate_mbit=10, queue_ms=200),
    )
}
"""From a data centre's rack to a phone on a train."""


def profile_named(name: str) -> LinkProfile:
    """The profile of this name. Raises `UnknownProfile`, which lists the names there are."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UnknownProfile(name, tuple(PROFILES)) from None

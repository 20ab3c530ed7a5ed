"""A link's physics as arithmetic: a round trip that wanders, a transmitter with a queue, the pace of one TCP sender.

Nothing here reads a clock: `now` is an argument, in seconds of any clock that only goes forward.
"""

import math
import random

from bus.shaping.congestion import HEADERS, INITIAL_WINDOW, MSS, TcpPath

FRESH_AFTER = 1.0
"""Seconds without traffic after which a round trip has no memory of where it was."""

LEAST_BURST = 0.01
"""Seconds of its rate that a sender may be ahead, at least: timers of a busy machine are late by some milliseconds, and
what they cost would otherwise be missing from the rate for good."""

READ_INTERVAL = 0.008
"""Seconds of its rate that a flow reads at once: few enough wake-ups to be cheap, small against every profile's queue."""

LARGEST_READ = 256 * 1024
"""Bytes read at once at most: as much as a socket hands over efficiently."""


class RoundTrip:
    """The link's present round trip: straight ramps, `jitter` seconds long on average, between values from its range."""

    def __init__(self, bounds: tuple[float, float], jitter: float, rng: random.Random) -> None:
        self._rng = rng
        self._from_time = self._to_time = -math.inf
        self.change(bounds, jitter)

    def change(self, bounds: tuple[float, float], jitter: float) -> None:
        """Wander in another range from now on."""
        self._bounds = bounds
        self._jitter = jitter
        self._from_value = self._to_value = self._rng.uniform(*bounds)
        self._to_time = -math.inf

    def at(self, now: float) -> float:
        """Seconds there and back; `now` may not go backwards."""
        if now - self._to_time > FRESH_AFTER:
            self._to_time = now
            self._to_value = self._rng.uniform(*self._bounds)
        while now >= self._to_time:
            self._from_time, self._from_value = self._to_time, self._to_value
            self._to_value = self._rng.uniform(*self._bounds)
            self._to_time = self._from_time + self._jitter * self._rng.uniform(0.5, 1.5)
        done = (now - self._from_time) / (self._to_time - self._from_time)
        return self._from_value + done * (self._to_value - self._from_value)


class Transmitter:
    """One direction of the link: packets of all connections leave one after another at the link's rate."""

    def __init__(self, rate: float, queue: float) -> None:
        self.rate = rate
        self.queue = queue
        self._free_at = -math.inf

    def change(self, now: float, rate: float, queue: float) -> None:
        """Go on at another rate (bytes/s); what is queued leaves at the new one."""
        self._free_at = now + self.backlog(now) * self.rate / rate
        self.rate = rate
        self.queue = queue

    def backlog(self, now: float) -> float:
        """Seconds that a packet which comes now waits for its turn."""
        return max(0.0, self._free_at - now)

    def send(self, now: float, payload: int) -> float:
        """Queue bytes; returns when the last of them has left."""
        packets = -(-payload // MSS)
        self._free_at = now + self.backlog(now) + (payload + packets * HEADERS) / self.rate
        return self._free_at

    def wait(self, now: float) -> float:
        """Seconds until the queue has room again; 0 where it has."""
        return max(0.0, self.backlog(now) - self.queue)


class Pacer:
    """What congestion control lets one sender send: a window at once, then the cap, reached by slow start.

    The rate is min(cap, (initial window + ln 2 x bytes sent) / round trip): sending at that rate makes it double every
    round trip, which is what slow start does (RFC 5681, section 3.1, with RFC 6928's initial window of ten segments). The
    clock is the virtual-scheduling form of a leaky bucket (GCRA, ITU-T I.371) as deep as a round trip, since TCP may send a
    window without waiting.
    """

    def __init__(self, path: TcpPath) -> None:
        self.path = path
        self._clock = -math.inf
        self._sent = 0
        self._last = -math.inf

    def change(self, now: float, path: TcpPath) -> None:
        """Go on over another path; a wait that the old one imposed ends."""
        self.path = path
        self._clock = min(self._clock, now)

    @property
    def rate(self) -> float:
        """Bytes a second at present."""
        return min(self.path.cap, (INITIAL_WINDOW * MSS + math.log(2) * self._sent) / self.path.round_trip)

    def credit(self, now: float) -> int:
        """Bytes that may be sent now; below 0 while in debt."""
        if self.path.restarts_when_idle and now - self._last > self.path.retransmission_timeout:
            self._sent = 0  # RFC 5681, section 4.1: the window is stale after a time-out's length of silence
        ahead = max(0.0, self._clock - now)
        return math.floor((self._burst() - ahead) * self.rate)

    def spend(self, now: float, payload: int) -> None:
        """Count bytes that are sent now, as many as `credit` says; a whole segment may always go and makes a debt."""
        self._clock = max(self._clock, now) + payload / self.rate
        self._sent += payload
        self._last = now

    def wait(self, now: float) -> float:
        """Seconds until a read is worth its while; 0 where it is."""
        worth = min(self.quantum(), self._burst() * self.rate)
        return max(0.0, self._clock - now - self._burst() + worth / self.rate)

    def quantum(self) -> int:
        """Bytes that a steady flow reads at once."""
        return max(MSS, min(LARGEST_READ, int(self.rate * READ_INTERVAL)))

    def _burst(self) -> float:
        return max(self.path.round_trip, LEAST_BURST)

"""A participant of the simulated carrier: its link to the server, and what it has subscribed to."""

from collections.abc import Callable

from bus.port import Handler
from bus.simulated_streams import Interests, Position

Rejected = Callable[[str, bytes, Exception | None], None]


class Endpoint:
    """A participant's connection: its link's delay, and what is wrong with it now.

    Attributes:
        latency: mean seconds that a message takes one way between it and the server.
        jitter: added to it, uniformly between 0 and this.
        up_cut, down_cut: until when nothing gets to the server, or from it.
        paused: until when it stands still; what comes meanwhile is handled afterwards.
        rejected: told of bytes that are no message (subject, bytes, error; None for a body that belies its subject).
    """

    __slots__ = (
        "_down_clock",
        "_up_clock",
        "down_cut",
        "epoch",
        "jitter",
        "latency",
        "name",
        "paused",
        "rejected",
        "subscriptions",
        "up_cut",
    )

    def __init__(self, name: str, latency: float, jitter: float) -> None:
        self.name = name
        self.latency = latency
        self.jitter = jitter
        self.up_cut = 0.0
        self.down_cut = 0.0
        self.paused = 0.0
        self.epoch = 0
        self.rejected: Rejected | None = None
        self.subscriptions: list[SimulatedSubscription] = []
        self._up_clock = 0.0
        self._down_clock = 0.0

    def up(self, now: float, chance: Callable[[], float]) -> float:
        """When what is sent now reaches the server; a connection keeps its order."""
        at = now + self.latency
        if self.jitter:
            at += self.jitter * chance()
        if at < self._up_clock:
            return self._up_clock
        self._up_clock = at
        return at

    def down(self, now: float, chance: Callable[[], float]) -> float:
        """When what the server sends now is here."""
        at = now + self.latency
        if self.jitter:
            at += self.jitter * chance()
        if at < self._down_clock:
            return self._down_clock
        self._down_clock = at
        return at


class SimulatedSubscription:
    """A standing interest of one endpoint."""

    __slots__ = ("active", "endpoint", "handler", "interests", "positions")

    def __init__(self, endpoint: Endpoint, interests: Interests, handler: Handler) -> None:
        self.endpoint = endpoint
        self.interests = interests
        self.handler = handler
        self.positions: list[Position] = []
        self.active = True

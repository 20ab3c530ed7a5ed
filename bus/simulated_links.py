"""The links of the simulated carrier: what is sent takes its time, gets lost, comes twice or late."""

import random
from collections.abc import Callable
from heapq import heappush

import msgspec

from bus.simulated_clock import VirtualClock
from bus.simulated_decoding import Foreign, SharingDecoder
from bus.simulated_endpoint import Endpoint, SimulatedSubscription
from bus.simulated_faults import Faults
from bus.simulated_streams import Position
from schemas.wire import Wire

_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Delivery = tuple[SimulatedSubscription, int, str, Wire, bytes, Position | None, int, bool]
"""Who gets it, their epoch when it was sent, subject, type, bytes, position and sequence if stored, redelivered."""


class SimulatedReceipt(msgspec.Struct, gc=False):
    """See `bus.port.Receipt`. A struct: one is made for each delivery of a stored message."""

    _endpoint: Endpoint
    _position: Position
    sequence: int
    redelivered: bool

    def ack(self) -> None:
        """See `bus.port.Receipt.ack`. Gets lost as often as other messages do."""
        self._position.acknowledge(self._endpoint, self._position, self.sequence)


class SimulatedLinks(VirtualClock):
    """Everybody's links to the server.

    Attributes:
        up: whether the server is there.
        delivered, dropped: messages so far.
    """

    def __init__(self, seed: int, faults: Faults) -> None:
        super().__init__()
        self.up = True
        self.delivered = 0
        self.dropped = 0
        self.chance = random.Random(seed).random
        decoder = SharingDecoder()
        self._decode, self._known = decoder.decode, decoder.known
        self.set_faults(faults)

    def set_faults(self, faults: Faults) -> None:
        """What goes wrong with messages from now on."""
        self.faults = faults
        self._drop = faults.drop
        self._quiet = faults.quiet

    def lost(self, endpoint: Endpoint) -> bool:
        """Whether what a participant sends now doesn't get to the server."""
        return not self.up or endpoint.up_cut > self.now or (self._drop > 0 and self.chance() < self._drop)

    def lost_coming(self, endpoint: Endpoint) -> bool:
        """Whether what the server sends to a participant now doesn't get there."""
        return endpoint.down_cut > self.now or (self._drop > 0 and self.chance() < self._drop)

    def forward(self, listener: SimulatedSubscription, at_server: float, delivery: Delivery) -> None:
        """Send something from the server to a participant, if its link lets it through."""
        endpoint = listener.endpoint
        if endpoint.down_cut > at_server:
            self.dropped += 1
            return
        if self._quiet:  # as `at` does, without a call more on the hottest path
            heappush(self._heap, (endpoint.down(at_server, self.chance), next(self._order), self._arrive, delivery))
            return
        faults, chance = self.faults, self.chance
        if chance() < self._drop:
            self.dropped += 1
            return
        at = endpoint.down(at_server, chance)
        if chance() < faults.reorder:
            at += faults.reorder_seconds * chance()
        self.at(at, self._arrive, delivery)
        if chance() < faults.duplicate:
            self.at(at + faults.reorder_seconds * chance(), self._arrive, delivery)

    def _arrive(self, delivery: Delivery) -> None:
        listener, epoch, subject, wire, data, position, sequence, redelivered = delivery
        endpoint = listener.endpoint
        if endpoint.epoch != epoch or not listener.active:
            return
        if endpoint.paused > self.now:
            self.at(endpoint.paused, self._arrive, delivery)
            return
        message = self._known.get(data)
        if message is None:
            try:
                message = self._decode(wire, subject, data)
            except _FAULTS as error:
                if position is not None:
                    position.acknowledge(endpoint, position, sequence)
                if endpoint.rejected is not None:
                    endpoint.rejected(subject, data, None if isinstance(error, Foreign) else error)
                return
        self.delivered += 1
        receipt = None if position is None else SimulatedReceipt(endpoint, position, sequence, redelivered)
        listener.handler(message, receipt)

    def hop_up(self, endpoint: Endpoint) -> float:
        """When what a participant sends now reaches the server."""
        return endpoint.up(self.now, self.chance)

    def hop_down(self, endpoint: Endpoint) -> float:
        """When what the server sends to a participant now is there."""
        return endpoint.down(self.now, self.chance)

    def round_trip(self, endpoint: Endpoint, timeout: float, done: Callable[[float | None], None]) -> None:
        """Measure a round trip; `done` gets seconds, None once `timeout` is over without an answer."""
        begun, chance = self.now, self.chance
        lost = self.lost(endpoint)
        at = endpoint.down(endpoint.up(begun, chance), chance)
        if lost or endpoint.down_cut > begun or at - begun > timeout:
            self.at(begun + timeout, done, None)
        else:
            self.at(at, done, at - begun)

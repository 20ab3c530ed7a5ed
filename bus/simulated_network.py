"""The simulated carrier's core: one heap of what happens when, virtual time, a seeded generator for all that is chance.

Synchronous and without asyncio, so that many thousands of participants run faster than real time. A message is encoded
when it is published and decoded anew for each receiver, and it travels: nobody's handler runs inside `publish`. As with
NATS all goes through one server: a link is cut between a participant and the server, one way or both.
"""

import hashlib
from collections.abc import Callable, Sequence

from bus.port import BusError, Handler, Interest, Start, SubjectTaken
from bus.simulated_endpoint import Endpoint, SimulatedSubscription
from bus.simulated_faults import NONE, Faults
from bus.simulated_links import SimulatedLinks
from bus.simulated_readers import SimulatedReaders
from bus.simulated_streams import Outcome, by_wire, held
from schemas.wire import Delivery, Message, Wire, encode, wire_of

# Seconds until a stored message that nobody acknowledged comes again, as on the NATS carrier.
ACK_WAIT = 5.0
# Seconds after which a publisher that heard nothing from the server sends again.
RESEND = 1.0

Done = Callable[[BusError | None], None]


class SimulatedNetwork(SimulatedLinks):
    """A server, its streams, and everybody's links to it.

    Attributes:
        trace: SHA-256 over everything published, if asked for.
        published: messages so far.
        readers: the streams and who reads them.
        tap: told of every message that is published, if set: for the story of a run.
    """

    def __init__(
        self, seed: int, faults: Faults = NONE, *, trace: bool = True, ack_wait: float = ACK_WAIT, resend: float = RESEND
    ) -> None:
        super().__init__(seed, faults)
        self.published = 0
        self.trace = hashlib.sha256() if trace else None
        self.tap: Callable[[Message], None] | None = None
        self.readers = SimulatedReaders(self, ack_wait)
        self._resend = resend
        self._telemetry: dict[Wire, dict[SimulatedSubscription, None]] = {}
        self._listeners: dict[Wire, dict[str, tuple[SimulatedSubscription, ...]]] = {}
        """Found so far, by subject."""

    # Publishing.

    def publish(
        self, sender: Endpoint, message: Message, *, name: str = "", first: bool = False, done: Done | None = None
    ) -> Callable[[], None]:
        """Send a sealed message; `done` is told when its stream has it. Telemetry tells nobody: it may be lost.

        Gives what ends the attempts to store it.
        """
        wire = wire_of(type(message))
        if wire.delivery is Delivery.TELEMETRY:
            self.tell(sender, message, wire)
            return _nothing
        subject, data = self._wired(message, wire)
        storing = _Storing(sender, subject, wire, data, name or message.id, first, done)
        self._try_to_store(storing)
        return storing.abandon

    def tell(self, sender: Endpoint, message: Message, wire: Wire) -> None:
        """Send a sealed message of telemetry."""
        subject, data = self._wired(message, wire)
        if self.lost(sender):
            self.dropped += 1
            return
        listeners = self._listening(subject, wire)
        if listeners:
            at_server = sender.up(self.now, self.chance)
            for listener in listeners:
                self.forward(listener, at_server, (listener, listener.endpoint.epoch, subject, wire, data, None, 0, False))

    def _wired(self, message: Message, wire: Wire) -> tuple[str, bytes]:
        """The subject and the bytes of a message that is being published."""
        data = encode(message)
        self.published += 1
        if self.trace is not None:
            self.trace.update(data)
        if self.tap is not None:
            self.tap(message)
        return wire.subject_of(message), data

    def _listening(self, subject: str, wire: Wire) -> tuple[SimulatedSubscription, ...]:
        known = self._listeners.get(wire)
        if known is None:
            return ()
        found = known.get(subject)
        if found is None:
            tokens = subject.split(".")
            found = known[subject] = tuple([each for each in self._telemetry[wire] if held(tokens, each.interests[wire])])
        return found

    # Storing.

    def _try_to_store(self, storing: "_Storing") -> None:
        sender = storing.sender
        if sender.epoch != storing.epoch or storing.abandoned:
            return
        if self.lost(sender):
            self.at(self.now + self._resend, self._try_to_store, storing)
            return
        self.at(sender.up(self.now, self.chance), self._reach_stream, storing)

    def _reach_stream(self, storing: "_Storing") -> None:
        if not self.up:
            self.at(self.now + self._resend, self._try_to_store, storing)
            return
        outcome = self.readers.store(storing.subject, storing.wire, storing.data, storing.name, storing.first)
        sender = storing.sender
        if storing.done is None:
            return
        if self.lost_coming(sender):
            self.at(self.now + self._resend, self._try_to_store, storing)
            return
        self.at(sender.down(self.now, self.chance), self._stored, (storing, outcome))

    def _stored(self, result: "tuple[_Storing, Outcome]") -> None:
        storing, outcome = result
        if storing.sender.epoch != storing.epoch or storing.abandoned or storing.done is None:
            return
        if storing.sender.paused > self.now:
            self.at(storing.sender.paused, self._stored, result)
            return
        taken = SubjectTaken(f"{storing.subject} has a message already: another writer won")
        storing.done(taken if outcome is Outcome.TAKEN else None)

    def inject(self, subject: str, wire: Wire, data: bytes) -> None:
        """What a foreign client, next to the server, puts on a subject."""
        if wire.delivery in self.readers.streams:
            self.readers.store(subject, wire, data, "", False)
            return
        for listener in self._listening(subject, wire):
            self.forward(listener, self.now, (listener, listener.endpoint.epoch, subject, wire, data, None, 0, False))

    # Subscribing.

    def subscribe(
        self,
        endpoint: Endpoint,
        interests: Sequence[Interest],
        handler: Handler,
        *,
        durable: str | None = None,
        start: Start = Start.NEW,
    ) -> SimulatedSubscription:
        """See `bus.port.Bus.subscribe`."""
        by_delivery: dict[Delivery, list[Interest]] = {}
        for interest in interests:
            by_delivery.setdefault(wire_of(interest.kind).delivery, []).append(interest)
        telemetry = by_wire(by_delivery.get(Delivery.TELEMETRY, ()))
        made = SimulatedSubscription(endpoint, telemetry, handler)
        endpoint.subscriptions.append(made)
        for wire in telemetry:
            self._telemetry.setdefault(wire, {})[made] = None
            self._listeners[wire] = {}
        for delivery in (Delivery.RECORD, Delivery.LAST_VALUE):
            if delivery in by_delivery:
                self.readers.read(made, delivery, by_delivery[delivery], durable, start)
        return made

    def stop(self, subscription: SimulatedSubscription, durable: bool) -> None:
        """End a subscription; a durable's position stays for the next of its name."""
        subscription.active = False
        if subscription in subscription.endpoint.subscriptions:
            subscription.endpoint.subscriptions.remove(subscription)
        for wire in subscription.interests:
            self._telemetry[wire].pop(subscription, None)
            self._listeners[wire] = {}
        self.readers.release(subscription, durable)

    def cut_off(self, endpoint: Endpoint, durable: bool = True) -> None:
        """A participant's process is gone: what was on its way to it or from it is lost, durable positions stay."""
        endpoint.epoch += 1
        for subscription in list(endpoint.subscriptions):
            self.stop(subscription, durable)

    def return_of_server(self) -> None:
        """The server is back with what it had stored: everybody's positions go on."""
        self.up = True
        self.readers.resume()


class _Storing:
    """A message on its way into a stream, sent again until the stream's answer is back."""

    __slots__ = ("abandoned", "data", "done", "epoch", "first", "name", "sender", "subject", "wire")

    def __init__(
        self, sender: Endpoint, subject: str, wire: Wire, data: bytes, name: str, first: bool, done: Done | None
    ) -> None:
        self.sender = sender
        self.epoch = sender.epoch
        self.subject = subject
        self.wire = wire
        self.data = data
        self.name = name
        self.first = first
        self.done = done
        self.abandoned = False

    def abandon(self) -> None:
        """Give up sending it."""
        self.abandoned = True


def _nothing() -> None:
    """There is nothing to give up."""

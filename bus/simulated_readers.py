"""Who reads the streams of the simulated carrier, and what is delivered to them, again until they acknowledge it."""

from collections.abc import Callable, Sequence

from bus.port import Interest, Start
from bus.simulated_endpoint import Endpoint, SimulatedSubscription
from bus.simulated_links import SimulatedLinks
from bus.simulated_streams import (
    MAX_PENDING,
    Outcome,
    Position,
    SimulatedStream,
    Stored,
    by_wire,
    held,
    matcher,
)
from schemas.wire import Delivery, Wire, wire_of


class SimulatedReaders:
    """The two streams and the positions in them."""

    def __init__(self, links: SimulatedLinks, ack_wait: float) -> None:
        self._links = links
        self._ack_wait = ack_wait
        self.streams = {
            Delivery.RECORD: SimulatedStream(newest_only=False),
            Delivery.LAST_VALUE: SimulatedStream(newest_only=True),
        }
        self.observers: list[Callable[[Stored], None]] = []
        """Told of every message that a stream has stored."""
        self._durables: dict[tuple[str, Delivery], Position] = {}
        self._holders: dict[Position, SimulatedSubscription] = {}

    def store(self, subject: str, wire: Wire, data: bytes, name: str, first: bool) -> Outcome:
        """A message is at its stream: keep it, and deliver it to whoever has read everything before it."""
        stream = self.streams[wire.delivery]
        outcome = stream.store(subject, wire, data, name, first, self._links.now)
        if outcome is Outcome.STORED:
            stored = stream.messages[stream.last]
            for observe in self.observers:
                observe(stored)
            for position in stream.readers(subject, wire):
                holder = self._holders.get(position)
                if holder is None:
                    continue
                if position.behind or len(position.pending) >= MAX_PENDING:
                    position.behind = True
                else:
                    position.next = stored.sequence + 1
                    self._deliver(holder, position, stored, False)
        return outcome

    def read(
        self, made: SimulatedSubscription, delivery: Delivery, interests: list[Interest], durable: str | None, start: Start
    ) -> None:
        """Deliver what a subscription asks for of one stream, from where it, or its durable name, begins."""
        stream = self.streams[delivery]
        known = self._durables.get((durable, delivery)) if durable else None
        newest: list[Stored] = []
        position = known or Position(stream, 1 if start is Start.ALL else stream.last + 1)
        stream.add(position, interests)
        if known is None:
            position.acknowledge = self._acknowledged
            if delivery is Delivery.LAST_VALUE or start is Start.LAST:
                newest = stream.newest(position.interests)
                position.next = stream.last + 1
            if durable:
                self._durables[durable, delivery] = position
        self._holders[position] = made
        made.positions.append(position)
        self._again(made, position, list(position.pending))
        for stored in newest:
            self._deliver(made, position, stored, False)
        self._catch_up(position)

    def release(self, subscription: SimulatedSubscription, durable: bool) -> None:
        """A subscription has ended; a durable's positions stay for the next of its name."""
        for position in subscription.positions:
            if self._holders.get(position) is subscription:
                del self._holders[position]
            if not durable:
                position.stream.leave(position)

    def forget(self, durable: str) -> None:
        """Remove the positions of a name: the next subscriber of that name begins as a new one."""
        for delivery, stream in self.streams.items():
            position = self._durables.pop((durable, delivery), None)
            if position is not None:
                stream.leave(position)

    def resume(self) -> None:
        """The server is back: everybody's positions go on."""
        for position in list(self._holders):
            self._again(self._holders[position], position, list(position.pending))
            self._catch_up(position)

    def stored(self, interests: Sequence[Interest]) -> list[Stored]:
        """What is stored for these interests, records first, each stream in its order."""
        found: list[Stored] = []
        for delivery, stream in self.streams.items():
            asked = by_wire([each for each in interests if wire_of(each.kind).delivery is delivery])
            found += [each for each in stream.after(0) if held(each.subject.split("."), asked.get(each.wire, ()))]
        return found

    def purge(self, subjects: str) -> None:
        """Remove stored messages whose subjects match a filter."""
        for stream in self.streams.values():
            stream.purge(matcher(subjects))

    def _deliver(self, holder: SimulatedSubscription, position: Position, stored: Stored, again: bool) -> None:
        links, (sequence, subject, wire, data) = self._links, stored
        now = links.now
        position.pending[sequence] = due = now + self._ack_wait
        if not position.checking:
            position.checking = True
            links.at(due, self._look_for_overdue, position)
        links.forward(holder, now, (holder, holder.endpoint.epoch, subject, wire, data, position, sequence, again))

    def _look_for_overdue(self, position: Position) -> None:
        position.checking = False
        holder = self._holders.get(position)
        if holder is None:
            return
        overdue = [sequence for sequence, due in position.pending.items() if due <= self._links.now]
        self._again(holder, position, overdue)
        if position.pending and not position.checking:
            position.checking = True
            self._links.at(next(iter(position.pending.values())), self._look_for_overdue, position)

    def _again(self, holder: SimulatedSubscription, position: Position, sequences: list[int]) -> None:
        for sequence in sequences:
            del position.pending[sequence]
            stored = position.stream.messages.get(sequence)
            if stored is not None and self._links.up:
                self._deliver(holder, position, stored, True)
            elif stored is not None:
                position.pending[sequence] = self._links.now + self._ack_wait

    def _catch_up(self, position: Position) -> None:
        """Deliver what is stored beyond a position, as far as it may have unacknowledged."""
        holder = self._holders.get(position)
        if holder is None or not self._links.up:
            return
        position.behind = False
        for stored in position.stream.after(position.next - 1):
            if len(position.pending) >= MAX_PENDING:
                position.behind = True
                return
            position.next = stored.sequence + 1
            if position.wants(stored.wire, stored.subject):
                self._deliver(holder, position, stored, False)
        position.next = position.stream.last + 1

    def _acknowledged(self, endpoint: Endpoint, position: Position, sequence: int) -> None:
        """An acknowledgement, on its way to the server."""
        if self._links.lost(endpoint):
            return
        position.pending.pop(sequence, None)
        if position.behind and len(position.pending) <= MAX_PENDING // 2:
            self._catch_up(position)

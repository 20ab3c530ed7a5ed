"""The NATS carrier: typed messages over nats-py, core NATS for telemetry and two JetStream streams for the rest."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Self

from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as CoreSubscription

from bus.credentials import Secret, member_of
from bus.nats_history import read_stored
from bus.nats_intake import Intake
from bus.nats_link import Link, LinkState, OnState
from bus.nats_log import NatsLog, make_logs
from bus.nats_objects import ObjectStore
from bus.nats_publish import StreamPublisher
from bus.nats_pull import StoredReceipt, StreamReader
from bus.nats_service import Service
from bus.nats_streams import LATEST, RECORD, STREAM_OF, ensure_streams
from bus.port import BusError, Handler, Interest, NoResponders, Responder, Start, Subscription, TimedOut, Unreachable
from schemas.bus import BusDisturbed, MessageRejected
from schemas.wire import Delivery, Message, encode, seal, subject_of, wire_of

log = logging.getLogger("shoal.bus")

ACK_WAIT = 5.0  # seconds until a stored message that nobody acknowledged is delivered again
STORE_TIMEOUT = 30.0  # seconds until a stored publish gives up: longer than a server takes to restart with 10 GB to read
_SETUP_TIMEOUT = 10.0  # seconds for a request to JetStream's API over a link that is alive but bad
_CLOSE_PATIENCE = 2.0  # seconds each that closing waits for answers and for publishes: a restarted server is back by then
_TROUBLE_INTERVAL = 10.0  # seconds between two reports of one kind of trouble, which may come with every message
_QUEUE_GROUP = "servers"  # all who serve a subject are of one group: each request goes to one of them
_TELEMETRY, _REQUEST = Delivery.TELEMETRY, Delivery.REQUEST

MemberResponder = Callable[[bytes, str], Awaitable[bytes]]
"""Answers a request, told who asks."""


class TooLarge(BusError):
    """A message exceeds what the server takes. Attributes: `subject`, `size`, `limit` (bytes)."""

    def __init__(self, subject: str, size: int, limit: int) -> None:
        super().__init__(
            f"{subject}: {size} bytes, over the server's limit of {limit}: put large values into the object store"
        )
        self.subject = subject
        self.size = size
        self.limit = limit


class NatsBus:
    """See `bus.port.Bus`. Make one with `connect`.

    Attributes:
        source: the participant's name.
    """

    def __init__(self, link: Link, source: str, ack_wait: float, store_timeout: float) -> None:
        self.source = source
        self._link = link
        self._nc = link.nc
        self._ack_wait = ack_wait
        self._intake = Intake(self._report_rejected)
        self._publisher = StreamPublisher(link, store_timeout, self._repair)
        self._objects = ObjectStore(link, self._publisher)
        self._subscriptions: set[_Subscription | Service] = set()
        self._born = int(time.time() * 1000)
        self._number = itertools.count(1)
        self._repairing: asyncio.Task[None] | None = None
        self._unsent = 0
        self._gone = False
        self._told_at: dict[str, float] = {}

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        source: str,
        token: Secret = None,
        on_state: OnState | None = None,
        ack_wait: float = ACK_WAIT,
        store_timeout: float = STORE_TIMEOUT,
    ) -> Self:
        """A participant of the bus at `url`, for good: once connected it comes back whenever the server does.

        Args:
            url: `nats://host:port`, a token possibly in it.
            source: its name, as in the messages it publishes.
            token: what the server asks for: a token, a member's credentials, or the file with either.
            on_state: told when the server is lost, back, refuses something, or the connection is over for good.
            ack_wait: seconds after which an unacknowledged stored message comes again.
            store_timeout: seconds after which publishing a stored message gives up.

        Raises:
            Unreachable: at once, with what to do about it.
        """
        bus: Self

        def changed(state: LinkState, reason: str) -> None:
            bus._disturbed(state, reason)
            if on_state is not None:
                on_state(state, reason)

        link = Link(url, source, token, changed)
        bus = cls(link, source, ack_wait, store_timeout)
        await link.open()
        try:
            await bus._publisher.open()
            await ensure_streams(link.nc, _SETUP_TIMEOUT)
        except BaseException:
            await link.close()
            raise
        return bus

    @property
    def closed(self) -> bool:
        """Whether this participant has gone."""
        return self._link.closed

    @property
    def rejected(self) -> int:
        """Messages received that were no messages."""
        return self._intake.rejected

    @property
    def dropped(self) -> int:
        """Messages that had no room, on their way in or out, or no server to go to."""
        return self._link.dropped

    async def publish(self, message: Message, *, dedup: str = "", first: bool = False) -> None:
        """See `bus.port.Bus.publish`. Telemetry is dropped while the server is away: the next one makes it good.

        Raises:
            SubjectTaken, Unreachable, NoRoom: as in the port.
            TooLarge: more than the server takes in one message.
        """
        wire = wire_of(type(message))
        data = encode(message)
        subject = wire.subject_of(message)
        link = self._link
        if wire.delivery is _TELEMETRY and not first and len(data) < 65_536:
            if link.up:
                if link.cast(subject, data):
                    await link.flush()
            else:
                self._unsent += 1
                link.dropped += 1
            return
        if len(data) > link.max_payload:
            raise TooLarge(subject, len(data), link.max_payload)
        if wire.delivery is _TELEMETRY or wire.delivery is _REQUEST:
            raise BusError(f"{type(message).__name__} is in no stream: `first` and storing are for RECORD and LAST_VALUE")
        await self._publisher.store(subject, data, dedup or message.id or self._next_id(), first)

    async def subscribe(
        self, interests: Sequence[Interest], handler: Handler, *, durable: str | None = None, start: Start = Start.NEW
    ) -> Subscription:
        """See `bus.port.Bus.subscribe`. Telemetry of several types keeps no order among the types.

        Raises:
            Unreachable: the server doesn't answer.
        """
        await self._link.wait_up(_SETUP_TIMEOUT)
        made = _Subscription(self._link, self._subscriptions.discard)
        self._subscriptions.add(made)
        stored: dict[str, list[str]] = {}
        try:
            for interest in interests:
                wire = wire_of(interest.kind)
                subject = wire.filter(**interest.fixed)
                if wire.delivery is _TELEMETRY:
                    made.core.append(await self._link.listen(subject, self._intake.telemetry(wire, handler)))
                else:
                    stored.setdefault(STREAM_OF[wire.delivery], []).append(subject)
            deliver = self._deliver_to(handler)
            for stream, filters in stored.items():
                reader = StreamReader(
                    self._link, stream, filters, deliver, durable=durable, start=start, ack_wait=self._ack_wait
                )
                made.readers.append(reader)
                await reader.open()
            if made.core and not stored and await self._link.round_trip(_SETUP_TIMEOUT) is None:
                raise Unreachable(f"{self._link.address} does not answer: is the server up?")
        except errors.Error as error:
            await made.stop()
            raise Unreachable(f"{self._link.address} gives no subscription ({error}): is the server up?") from error
        except BaseException:
            await made.stop()
            raise
        return made

    def _deliver_to(self, handler: Handler) -> Callable[[Msg, StoredReceipt], None]:
        decode = self._intake.decode

        def deliver(msg: Msg, receipt: StoredReceipt) -> None:
            message = decode(msg.subject, msg.data)
            if message is None:
                receipt.ack()
                return
            try:
                handler(message, receipt)
            except Exception:
                log.exception("the handler of %s raised; the message comes again", type(message).__name__)

        return deliver

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes:
        """See `bus.port.Bus.request`. Raises `Unreachable` where the server itself stays away."""
        begun = time.monotonic()
        await self._link.wait_up(timeout)
        await self._link.flush()
        try:
            left = max(0.001, timeout - (time.monotonic() - begun))
            return await self._link.request(subject, body, left)
        except errors.NoRespondersError:
            raise NoResponders(subject) from None
        except TimeoutError:
            raise TimedOut(f"no answer on {subject} within {timeout:g} s: is the one who answers busy? try again") from None
        except errors.MaxPayloadError:
            raise TooLarge(subject, len(body), self._link.max_payload) from None
        except errors.Error as error:
            raise Unreachable(f"{self._link.address}: {error}; is the server up?") from error

    def log(self, name: str) -> NatsLog:
        """See `bus.port.Bus.log`."""
        return NatsLog(name, self._link, self._publisher, self._ack_wait)

    async def serve(self, subject: str, responder: Responder, *, group: str = _QUEUE_GROUP) -> Subscription:
        """See `bus.port.Bus.serve`. Requests are answered side by side; what a responder raises is logged."""
        return await self._take_requests(
            subject, Service(lambda msg: responder(msg.data), self._link, self._subscriptions.discard), group
        )

    async def _take_requests(self, subject: str, service: Service, group: str) -> Subscription:
        await self._link.wait_up(_SETUP_TIMEOUT)
        service.core = await self._nc.subscribe(subject, queue=group, cb=service.asked)
        self._subscriptions.add(service)
        await self._link.round_trip(_SETUP_TIMEOUT)
        return service

    async def serve_member(self, subject: str, responder: MemberResponder) -> Subscription:
        """As `serve`; the responder is also told who asks, by whose inbox awaits the answer."""
        service = Service(lambda msg: responder(msg.data, member_of(msg.reply)), self._link, self._subscriptions.discard)
        return await self._take_requests(subject, service, _QUEUE_GROUP)

    async def overhear(self, subject: str, heard: Callable[[bytes, str], None]) -> Subscription:
        """Be told of each request on a subject that others answer, and who asks."""

        async def listen(msg: Msg) -> None:
            heard(msg.data, member_of(msg.reply))

        made = _Subscription(self._link, self._subscriptions.discard)
        self._subscriptions.add(made)
        made.core.append(await self._nc.subscribe(subject, cb=listen))
        return made

    async def said(self, timeout: float) -> None:
        """Returns once all answers given so far have reached the server, at the latest after `timeout` seconds."""
        await self._link.posted()
        await self._link.round_trip(timeout)

    async def prepare_objects(self) -> None:
        """Make the object store's bucket where it is missing; raises `Unreachable`."""
        await self._objects.make()

    async def prepare_logs(self) -> None:
        """Make the stream of logs where it is missing; raises `Unreachable`."""
        await make_logs(self._link)

    async def round_trip(self, timeout: float) -> float | None:
        """See `bus.port.Bus.round_trip`."""
        return await self._link.round_trip(timeout)

    def retransmitted(self) -> float | None:
        """Fraction of TCP segments sent again on this connection since the last call; None where the system won't say."""
        return self._link.retransmitted()

    async def history(self, interests: Sequence[Interest]) -> AsyncIterator[Message]:
        """See `bus.port.Bus.history`. What doesn't decode is left out, and reported."""
        filters: dict[str, list[str]] = {}
        for interest in interests:
            wire = wire_of(interest.kind)
            if wire.delivery in STREAM_OF:
                filters.setdefault(STREAM_OF[wire.delivery], []).append(wire.filter(**interest.fixed))
        for stream in STREAM_OF.values():
            if stream in filters:
                async for msg in read_stored(self._link, stream, filters[stream]):
                    message = self._intake.decode(msg.subject, msg.data)
                    if message is not None:
                        yield message

    async def put_object(self, name: str, data: bytes) -> None:
        """See `bus.port.Bus.put_object`. Raises `Unreachable`."""
        await self._link.wait_up(_SETUP_TIMEOUT)
        await self._objects.put(name, data)

    async def get_object(self, name: str, *, limit: int | None = None, arrived: Callable[[], None] | None = None) -> bytes:
        """See `bus.port.Bus.get_object`; `arrived` is called with each part that comes.

        Raises `Unreachable`, `CorruptObject` where the hash is wrong, and `ObjectTooLarge` for more than `limit` bytes.
        """
        await self._link.wait_up(_SETUP_TIMEOUT)
        return await self._objects.get(name, limit=limit, arrived=arrived)

    async def purge(self, subjects: str) -> None:
        """See `bus.port.Bus.purge`. Raises `Unreachable`."""
        await self._link.wait_up(_SETUP_TIMEOUT)
        js = self._nc.jetstream(timeout=_SETUP_TIMEOUT)
        try:
            await asyncio.gather(*(js.purge_stream(stream, subject=subjects) for stream in (RECORD, LATEST)))
        except errors.Error as error:
            raise Unreachable(f"{subjects} was not purged: {error}; is the server up?") from error

    async def close(self) -> None:
        """See `bus.port.Bus.close`: acknowledgements are sent, publishes under way are stored.

        It takes some seconds at most: with the server gone they fail as `Unreachable`.
        """
        if self._gone:
            return
        self._gone = True
        await asyncio.gather(*(subscription.stop() for subscription in tuple(self._subscriptions)))
        await self._publisher.close(_CLOSE_PATIENCE)
        if self._repairing is not None:
            self._repairing.cancel()
        await self._link.close()

    def _next_id(self) -> str:
        return f"{self.source}:{self._born}-bus:{next(self._number)}"

    def _say(self, message: Message) -> None:
        """Publish something of the bus's own."""
        seal(message, id=self._next_id(), cause="", at=time.time(), source=self.source)
        self._link.post(subject_of(message), encode(message))

    def _report_rejected(self, rejection: MessageRejected) -> None:
        log.warning("%s: bytes that are no such message: %s: %s", rejection.subject, rejection.field, rejection.reason)
        self._say(rejection)

    def _disturbed(self, state: LinkState, reason: str) -> None:
        if state is LinkState.BACK:
            unsent, self._unsent = self._unsent, 0
            if unsent:
                reason += f"; {unsent} messages of telemetry were not sent"
            self._say(BusDisturbed(kind="reconnected", reason=reason, seconds=self._link.away))
        elif state is LinkState.TROUBLE:
            kind, _, detail = reason.partition(": ")
            now = time.monotonic()
            # The report itself may be what is not permitted, and lead to the next.
            if now - self._told_at.get(kind, float("-inf")) >= _TROUBLE_INTERVAL:
                self._told_at[kind] = now
                self._say(BusDisturbed(kind=kind, reason=detail))

    async def _repair(self) -> None:
        """Make the streams again where a server came back with an empty store; one attempt at a time."""
        if self._repairing is None or self._repairing.done():
            self._repairing = asyncio.get_running_loop().create_task(ensure_streams(self._nc, _SETUP_TIMEOUT))
        repairing = self._repairing
        await asyncio.wait([repairing])
        if not repairing.cancelled():
            repairing.exception()  # who waits for a stream looks for it again


class _Subscription:
    """Core subscriptions for telemetry and readers for stored messages, under one handle."""

    def __init__(self, link: Link, gone: Callable[["_Subscription"], None]) -> None:
        self._link = link
        self.core: list[CoreSubscription] = []
        self.readers: list[StreamReader] = []
        self._gone = gone

    async def stop(self) -> None:
        """See `bus.port.Subscription.stop`."""
        for core in self.core:
            await self._link.silence(core)
        for reader in self.readers:
            await reader.stop()
        self.core.clear()
        self.readers.clear()
        self._gone(self)

"""Reading a stream as it grows: a consumer of our own that survives whatever happens to its server or its connection."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as CoreSubscription
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError

from bus.nats_link import Link
from bus.nats_streams import RECORD, ensure_streams
from bus.port import BusError, Start

log = logging.getLogger("shoal.bus")

_BATCH = 128  # messages a pull asks for; two are always out, so the server is never idle while one is on its way
_EXPIRES = 60.0  # seconds a pull stands open: an idle consumer costs two small messages a minute. No heartbeats where the
# server itself stores: nats-py's pings find a dead connection; what the server drops with a living one ends in `_watch`.
_GRACE = 10.0  # seconds after which a pull that should have expired counts as lost
# Seconds between heartbeats of a consumer that is on another server than the one connected to: when that one dies, or is
# cut off, nothing else tells. Its absence is noticed after some two of them.
_HEARTBEAT = 2.0
# Seconds that its pulls stand open: where a leaf's line was away for milliseconds, the other server goes on delivering to
# pulls whose inbox is gone, thousands of times a second, until they have expired.
_EXPIRES_FROM_AFAR = 6.0
_MAX_UNACKNOWLEDGED = 1024  # messages delivered and not acknowledged, after which the server waits for its receiver
_FORGOTTEN_AFTER = 300.0  # seconds without a pull after which the server drops a subscription that isn't durable
_RECOVERY_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to go on; the last one repeats
_CALM = 1.0  # seconds that a session must have lasted for the next one to begin without a pause
_REST = 0.1  # seconds of that pause, doubled each time
_LONGEST_REST = 8.0  # seconds: by then pulls that earlier sessions left at a distant server have expired
_REPAIR_TIMEOUT = 5.0  # seconds that the server may take to answer when its streams are made again
_FAREWELL = 1.0  # seconds for the removal of a consumer that is not durable; without it the server removes it later
_RESET_SINCE = (2, 14)  # the server's version from which a consumer can be set back to its first unacknowledged message
_PULL = msgspec.json.encode({"batch": _BATCH, "expires": int(_EXPIRES * 1e9)})
_PULL_FROM_AFAR = msgspec.json.encode(
    {"batch": _BATCH, "expires": int(_EXPIRES_FROM_AFAR * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
)
_STATUS, _WAITING = "Status", "Nats-Pending-Messages"


@dataclass
class Position:
    """How far one subscriber is in one stream.

    Attributes:
        seen: the highest sequence delivered.
        unacknowledged: sequences delivered and not acknowledged, in order of their coming.
    """

    seen: int = 0
    unacknowledged: dict[int, None] = field(default_factory=dict)

    @property
    def resume_at(self) -> int:
        """The first sequence that may still be needed."""
        return min(self.unacknowledged, default=self.seen + 1)


class StoredReceipt:
    """See `bus.port.Receipt`."""

    __slots__ = ("_link", "_position", "_reply", "redelivered", "sequence")

    def __init__(self, link: Link, position: Position, reply: str, sequence: int, redelivered: bool) -> None:
        self._link = link
        self._position = position
        self._reply = reply
        self.sequence = sequence
        self.redelivered = redelivered

    def ack(self) -> None:
        """Done with it; the server learns it in the next tick."""
        self._position.unacknowledged.pop(self.sequence, None)
        self._link.post(self._reply)


Deliver = Callable[[Msg, StoredReceipt], None]


def coordinates(reply: str) -> tuple[int, int, int, int]:
    """(deliveries, stream sequence, consumer sequence, messages waiting) from the reply subject of a stored message.

    `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<waiting>`; newer servers put a domain and
    an account before the stream and a random token at the end (ADR-15).

    Raises:
        BusError: it is no such subject: the message comes from somebody else.
    """
    tokens = reply.split(".")
    at = 4 if len(tokens) == 9 else 6
    try:
        return int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 2]), int(tokens[at + 4])
    except (IndexError, ValueError):
        raise BusError(f"{reply[:80]!r} is no place in a stream: somebody else writes to this inbox") from None


class StreamReader:
    """Delivers a stream's messages on some subjects, from a position on, for as long as it is not stopped.

    The server's sequence of deliveries shows what was lost with a connection: the consumer is then set back to its first
    unacknowledged message, so that order is kept. A consumer that has vanished is made again at that position.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        filters: list[str],
        deliver: Deliver,
        *,
        durable: str | None,
        start: Start,
        ack_wait: float,
    ) -> None:
        self._link = link
        self._stream = stream
        self._deliver = deliver
        self._durable = durable
        self._name = durable or link.nc.new_inbox().rpartition(".")[2]
        self._start = start
        self._filters = sorted(set(filters))
        self._ack_wait = ack_wait
        self._position = Position()
        self._store: object = None
        self._session = 0
        self._subscription: CoreSubscription | None = None
        self._inbox = ""
        self._outstanding = 0
        self._next_delivery = 0
        self._heard_at = 0.0
        self._begun_at = 0.0
        self._broken = 0
        self._recovery: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._stopped = False

    async def open(self) -> None:
        """Returns when the server delivers. Raises nats-py's errors where it can't."""
        self._store = (await self._js().stream_info(self._stream)).created
        await self._begin()
        self._link.on_back.append(self._recover)
        self._watch()

    async def stop(self) -> None:
        """Deliver no more. A durable's position stays with the server."""
        self._stopped = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._recovery is not None:
            self._recovery.cancel()
        with contextlib.suppress(ValueError):
            self._link.on_back.remove(self._recover)
        await self._unsubscribe()
        if self._durable is None and self._link.up:
            with contextlib.suppress(errors.Error):
                await self._link.nc.jetstream(timeout=_FAREWELL).delete_consumer(self._stream, self._name)

    def _js(self) -> JetStreamContext:
        return self._link.nc.jetstream()

    async def _begin(self) -> None:
        """A session: a fresh inbox, so that nothing of an earlier one gets in, the consumer at its position, two pulls."""
        await self._unsubscribe()
        self._session += 1
        session = self._session
        self._inbox = self._link.nc.new_inbox()

        async def received(msg: Msg) -> None:
            if session == self._session:
                self._receive(msg)

        self._subscription = await self._link.nc.subscribe(self._inbox, cb=received)
        self._next_delivery = await self._place()
        self._outstanding = 0
        self._begun_at = self._heard_at = asyncio.get_running_loop().time()
        self._top_up()

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        self._session += 1
        if subscription is not None:
            with contextlib.suppress(errors.Error):
                await subscription.unsubscribe()

    async def _place(self) -> int:
        """Have a consumer that goes on at the first unacknowledged message; the number of its next delivery, 0: unknown."""
        js = self._js()
        try:
            info = await js.consumer_info(self._stream, self._name)
        except NotFoundError:
            return await self._make(js)
        assert info.config is not None
        if sorted(info.config.filter_subjects or [info.config.filter_subject or ""]) != self._filters:
            await js.add_consumer(self._stream, info.config.evolve(**self._filter_fields()))
        if info.delivered is not None:
            self._position.seen = max(self._position.seen, info.delivered.stream_seq)
        version = self._link.nc.connected_server_version
        if (version.major, version.minor) < _RESET_SINCE:
            return 0  # unacknowledged messages come again once `ack_wait` is over, after newer ones
        await js.reset_consumer(self._stream, self._name)
        return 1

    async def _make(self, js: JetStreamContext) -> int:
        stream = await js.stream_info(self._stream)
        if stream.created != self._store:
            # Another store under the same address: all that it has is new to us.
            self._store, self._position, self._start = stream.created, Position(), Start.ALL
        info = await js.add_consumer(self._stream, self._config())
        if self._position.seen == 0 and self._start is Start.NEW and self._stream == RECORD:
            self._position.seen = _delivered(info)  # "new" means: after what was there when we began
        return 1

    def _config(self) -> ConsumerConfig:
        config = ConsumerConfig(
            name=self._name,
            durable_name=self._durable,
            ack_policy=AckPolicy.EXPLICIT,
            # Long enough for a receiver that waits for its own effects to be stored; short, since what a process held when
            # it was killed reaches its successor only after it where the server can't set a consumer back.
            ack_wait=self._ack_wait,
            max_ack_pending=_MAX_UNACKNOWLEDGED,
            inactive_threshold=None if self._durable else _FORGOTTEN_AFTER,
            **self._filter_fields(),  # type: ignore[arg-type]
        )
        if self._position.seen:
            at = self._position.resume_at
            return config.evolve(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=at)
        policies = {Start.NEW: DeliverPolicy.NEW, Start.LAST: DeliverPolicy.LAST_PER_SUBJECT, Start.ALL: DeliverPolicy.ALL}
        # The stream of last values holds one message of each subject: "all" is the newest of each.
        return config.evolve(deliver_policy=policies[self._start] if self._stream == RECORD else DeliverPolicy.ALL)

    def _filter_fields(self) -> dict[str, object]:
        if len(self._filters) == 1:
            return {"filter_subject": self._filters[0], "filter_subjects": None}
        return {"filter_subject": None, "filter_subjects": self._filters}

    def _top_up(self) -> None:
        wanted = _PULL_FROM_AFAR if self._link.distant else _PULL
        while self._outstanding <= _BATCH:
            self._outstanding += _BATCH
            self._link.post(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", wanted, self._inbox)

    def _receive(self, msg: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if not msg.reply:
            self._told(msg)
            return
        try:
            deliveries, sequence, delivery, _ = coordinates(msg.reply)
        except BusError as error:
            log.warning("%s: a message was dropped: %s", self._name, error)
            return
        if self._next_delivery and delivery != self._next_delivery:
            log.info("%s: deliveries were lost on the way; going back to the first unacknowledged", self._name)
            self._recover()
            return
        self._next_delivery = delivery + 1
        self._outstanding -= 1
        if self._outstanding <= _BATCH:
            self._top_up()
        position = self._position
        receipt = StoredReceipt(self._link, position, msg.reply, sequence, deliveries > 1 or sequence <= position.seen)
        position.seen = max(position.seen, sequence)
        position.unacknowledged[sequence] = None
        self._deliver(msg, receipt)

    def _told(self, msg: Msg) -> None:
        """A status instead of a message: a pull has expired, or something is wrong with the consumer."""
        headers = msg.headers or {}
        if headers.get(_STATUS) == "408":
            waiting = headers.get(_WAITING, "")
            self._outstanding -= int(waiting) if waiting.isascii() and waiting.isdigit() else _BATCH
            self._top_up()
        elif headers.get(_STATUS) != "100":
            log.debug("%s: %s", self._name, headers)
            self._recover()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        every, patience = (_HEARTBEAT, 2 * _HEARTBEAT) if self._link.distant else (_EXPIRES, _EXPIRES + _GRACE)
        going_on = self._recovery is not None and not self._recovery.done()
        if self._link.up and loop.time() - self._heard_at > patience and not (self._link.distant and going_on):
            self._recover()
        self._watchdog = loop.call_later(every, self._watch)

    def _recover(self) -> None:
        """Begin again. An attempt under way may be waiting for an answer that a lost connection will never bring."""
        self._session += 1  # whatever still comes belongs to the past
        if self._recovery is not None:
            self._recovery.cancel()
        if not self._stopped:
            self._recovery = asyncio.get_running_loop().create_task(self._go_on())

    async def _go_on(self) -> None:
        self._broken = self._broken + 1 if asyncio.get_running_loop().time() - self._begun_at < _CALM else 0
        if self._broken:  # the last sessions broke at once: don't spin
            await asyncio.sleep(min(_REST * 2 ** (self._broken - 1), _LONGEST_REST))
        for attempt in itertools.count():
            if not self._link.up:
                return  # `on_back` comes here again
            try:
                await self._begin()
                return
            except NotFoundError:
                await self._repair()
            except (errors.Error, BusError) as error:
                log.debug("%s: not yet: %s", self._name, error)
                if self._durable is None and self._link.distant:
                    # Consumers that aren't durable are on one server alone, which may be the one that is away.
                    self._name = self._link.nc.new_inbox().rpartition(".")[2]
            await asyncio.sleep(_RECOVERY_PAUSES[min(attempt, len(_RECOVERY_PAUSES) - 1)])

    async def _repair(self) -> None:
        with contextlib.suppress(BusError):
            await ensure_streams(self._link.nc, _REPAIR_TIMEOUT)


def _delivered(info: ConsumerInfo) -> int:
    return info.delivered.stream_seq if info.delivered is not None else 0

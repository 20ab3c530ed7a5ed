"""The simulated carrier as a `bus.port.Bus`: for hosts and tests that speak asyncio.

Its time is the event loop's: on an ordinary loop a simulated second takes a second, on a loop with virtual time none.
Simulations of whole fleets use `bus.simulated_network` itself, without asyncio.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from bus.nats_intake import Intake, contradiction
from bus.port import BusError, Handler, Interest, Receipt, Responder, Start, Subscription, Unreachable
from bus.simulated_endpoint import Endpoint, SimulatedSubscription
from bus.simulated_faults import NONE, Faults
from bus.simulated_log import LogData, SimulatedLog
from bus.simulated_network import ACK_WAIT, RESEND, SimulatedNetwork
from bus.simulated_requests import SimulatedRequests
from schemas.bus import MessageRejected
from schemas.wire import Delivery, Message, fault, seal, wire_for, wire_of

log = logging.getLogger("shoal.bus")

# Seconds until a stored publish gives up, as on the NATS carrier.
STORE_TIMEOUT = 30.0
# Seconds that subscribing, purging and objects wait for a server that is away.
SETUP_TIMEOUT = 10.0
# Seconds one way: a server on the same machine.
LATENCY = 1e-4


class SimulatedServer:
    """What stands for the server: connect participants with `connect`."""

    def __init__(
        self,
        seed: int = 0,
        faults: Faults = NONE,
        *,
        ack_wait: float = ACK_WAIT,
        resend: float = RESEND,
        store_timeout: float = STORE_TIMEOUT,
    ) -> None:
        self.network = SimulatedNetwork(seed, faults, trace=False, ack_wait=ack_wait, resend=resend)
        self.requests = SimulatedRequests(self.network)
        self.objects: dict[str, bytes] = {}
        self.logs: dict[str, LogData] = {}
        self.store_timeout = store_timeout
        self.resend = resend
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._back = asyncio.Event()
        self._back.set()

    def connect(self, source: str, *, latency: float = LATENCY, jitter: float = 0.0) -> "SimulatedBus":
        """A new participant, with a link of this one-way delay (seconds)."""
        return SimulatedBus(self, source, Endpoint(source, latency, jitter))

    def stop(self) -> None:
        """The server goes away; what it stored stays."""
        self.synchronise()
        self.network.up = False
        self._back.clear()

    def start(self) -> None:
        """The server comes back."""
        self.synchronise()
        self.network.return_of_server()
        self._back.set()
        self.kick()

    async def wait_up(self) -> None:
        """Returns once the server is there. Raises `Unreachable` where that takes too long."""
        try:
            async with asyncio.timeout(SETUP_TIMEOUT):
                await self._back.wait()
        except TimeoutError:
            raise Unreachable("the simulated server is away: start it") from None

    def synchronise(self) -> None:
        """Bring the network's clock to the loop's, without letting anything happen inside the caller."""
        self.network.now = max(self.network.now, self._loop.time() - self._origin)

    def kick(self) -> None:
        """Let what was scheduled happen when its time has come."""
        due = self.network.next_event()
        if due is None or (self._alarm is not None and self._alarm_at <= due):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._loop.call_at(self._origin + due, self._advance)

    def _advance(self) -> None:
        self._alarm = None
        # The heap's own time may be a rounding step ahead of the loop's.
        self.network.run(max(self._loop.time() - self._origin, self._alarm_at))
        self.kick()


class SimulatedBus:
    """See `bus.port.Bus`. Make one with `SimulatedServer.connect`.

    Attributes:
        source: the participant's name.
        endpoint: its link, with what is wrong with it.
    """

    def __init__(self, server: SimulatedServer, source: str, endpoint: Endpoint) -> None:
        self.source = source
        self.endpoint = endpoint
        self._server = server
        self._network = server.network
        self._intake = Intake(self._report)
        self._numbers = itertools.count(1)
        self._storing: set[asyncio.Future[None]] = set()
        self._subscriptions: set[_Subscription | _Service] = set()
        self._born = int(time.time() * 1000)
        self.closed = False
        endpoint.rejected = self._reject

    @property
    def rejected(self) -> int:
        """Messages received that were no messages."""
        return self._intake.rejected

    async def publish(self, message: Message, *, dedup: str = "", first: bool = False) -> None:
        """See `bus.port.Bus.publish`."""
        delivery = wire_of(type(message)).delivery
        if delivery is Delivery.REQUEST or (first and delivery is Delivery.TELEMETRY):
            raise BusError(f"{type(message).__name__} is in no stream: `first` and storing are for RECORD and LAST_VALUE")
        server, network = self._server, self._network
        server.synchronise()
        if delivery is Delivery.TELEMETRY:
            network.publish(self.endpoint, message)
            server.kick()
            return
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BusError | None) -> None:
            if not stored.done():
                stored.set_result(None) if error is None else stored.set_exception(error)

        give_up = network.publish(self.endpoint, message, name=dedup or message.id, first=first, done=done)

        def too_late(_: object) -> None:
            give_up()
            done(Unreachable("the simulated server did not store the message in time: start it"))

        network.at(network.now + server.store_timeout, too_late)
        server.kick()
        self._storing.add(stored)
        stored.add_done_callback(self._storing.discard)
        await asyncio.shield(stored)

    async def subscribe(
        self, interests: Sequence[Interest], handler: Handler, *, durable: str | None = None, start: Start = Start.NEW
    ) -> Subscription:
        """See `bus.port.Bus.subscribe`."""
        await self._server.wait_up()
        self._server.synchronise()

        def guarded(message: Message, receipt: Receipt | None) -> None:
            try:
                handler(message, receipt)
            except Exception:
                log.exception("the handler of %s raised; a stored message comes again", type(message).__name__)

        subscribed = self._network.subscribe(self.endpoint, interests, guarded, durable=durable, start=start)
        self._server.kick()
        made = _Subscription(self._network, subscribed, durable is not None, self._subscriptions.discard)
        self._subscriptions.add(made)
        return made

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes:
        """See `bus.port.Bus.request`."""
        self._server.synchronise()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answered(result: bytes | BusError) -> None:
            if answer.done():
                return
            if isinstance(result, BusError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self._server.requests.ask(self.endpoint, subject, body, timeout, answered)
        self._server.kick()
        return await answer

    def log(self, name: str) -> SimulatedLog:
        """See `bus.port.Bus.log`."""
        server = self._server
        return SimulatedLog(
            name, server.logs.setdefault(name, LogData(server.resend)), self._network, self.endpoint,
            synchronise=server.synchronise, kick=server.kick, timeout=server.store_timeout,
        )  # fmt: skip

    async def serve(self, subject: str, responder: Responder, *, group: str = "servers") -> Subscription:
        """See `bus.port.Bus.serve`."""
        await self._server.wait_up()
        service = _Service(self._server, responder, self._subscriptions.discard)
        service.ends = self._server.requests.serve(self.endpoint, subject, service.asked, group)
        self._subscriptions.add(service)
        return service

    async def round_trip(self, timeout: float) -> float | None:
        """See `bus.port.Bus.round_trip`."""
        self._server.synchronise()
        measured: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()

        def done(seconds: float | None) -> None:
            if not measured.done():
                measured.set_result(seconds)

        self._network.round_trip(self.endpoint, timeout, done)
        self._server.kick()
        return await measured

    async def history(self, interests: Sequence[Interest]) -> AsyncIterator[Message]:
        """See `bus.port.Bus.history`."""
        await self._server.wait_up()
        for stored in self._network.readers.stored(interests):
            message = self._intake.decode(stored.subject, stored.data)
            if message is not None:
                yield message

    async def put_object(self, name: str, data: bytes) -> None:
        """See `bus.port.Bus.put_object`."""
        await self._server.wait_up()
        self._server.objects[name] = bytes(data)

    async def get_object(self, name: str) -> bytes:
        """See `bus.port.Bus.get_object`."""
        await self._server.wait_up()
        return self._server.objects[name]

    async def purge(self, subjects: str) -> None:
        """See `bus.port.Bus.purge`."""
        await self._server.wait_up()
        self._network.readers.purge(subjects)

    async def close(self) -> None:
        """See `bus.port.Bus.close`."""
        if self.closed:
            return
        self.closed = True
        await asyncio.gather(*self._storing, return_exceptions=True)
        for subscription in tuple(self._subscriptions):
            await subscription.stop()
        self._network.cut_off(self.endpoint)

    def inject(self, subject: str, data: bytes) -> None:
        """What a foreign client puts on a subject: any bytes."""
        self._server.synchronise()
        wire = wire_for(subject)
        if wire is not None:
            self._network.inject(subject, wire, data)
        self._server.kick()

    def _reject(self, subject: str, data: bytes, error: Exception | None) -> None:
        if error is not None:
            self._intake.reject(subject, data, *fault(error))
            return
        wire = wire_for(subject)
        assert wire is not None
        self._intake.reject(subject, data, *contradiction(wire, wire.decode_bytes(data), subject))

    def _report(self, rejection: MessageRejected) -> None:
        id = f"{self.source}:{self._born}-bus:{next(self._numbers)}"
        seal(rejection, id=id, cause="", at=time.time(), source=self.source)
        self._network.publish(self.endpoint, rejection)
        self._server.kick()


class _Subscription:
    """See `bus.port.Subscription`."""

    def __init__(
        self,
        network: SimulatedNetwork,
        subscribed: SimulatedSubscription,
        durable: bool,
        gone: Callable[["_Subscription"], None],
    ) -> None:
        self._network = network
        self._subscribed = subscribed
        self._durable = durable
        self._gone = gone

    async def stop(self) -> None:
        """See `bus.port.Subscription.stop`."""
        self._network.stop(self._subscribed, self._durable)
        self._gone(self)


class _Service:
    """Answers the requests of one subject, side by side."""

    def __init__(self, server: SimulatedServer, responder: Responder, gone: Callable[["_Service"], None]) -> None:
        self._server = server
        self._responder = responder
        self._gone = gone
        self._tasks: set[asyncio.Task[None]] = set()
        self.ends: Callable[[], None] = lambda: None

    def asked(self, body: bytes, reply: Callable[[bytes], None]) -> None:
        """A request has come: answered in a task of its own, so that a slow answer holds up nobody."""
        task = asyncio.get_running_loop().create_task(self._answer(body, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """See `bus.port.Subscription.stop`."""
        self.ends()
        for task in self._tasks:
            task.cancel()
        self._gone(self)

    async def _answer(self, body: bytes, reply: Callable[[bytes], None]) -> None:
        try:
            answer = await self._responder(body)
        except Exception:
            log.exception("a responder raised; the client gets no answer")
            return
        self._server.synchronise()
        reply(answer)
        self._server.kick()

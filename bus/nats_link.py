"""One connection to a NATS server that lasts: it comes back by itself, says so, and measures its own line."""

import asyncio
import contextlib
import enum
import logging
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from nats import errors
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.credentials import Access, Secret
from bus.port import Unreachable
from bus.segments import segments_of
from bus.several import address_of, in_turn, place_of

log = logging.getLogger("shoal.bus")

_CONNECT_TIMEOUT = 5  # seconds an attempt may take: an unstable link (500 ms, losses) greets within three
_FIRST_RETRY = 0.05  # seconds before the first attempt to come back: a restarted server is up within 30 ms
_LAST_RETRY = 2.0  # seconds between later attempts: how late a server that was away for long is noticed
_PING_INTERVAL = 10  # seconds between pings of an idle connection; three unanswered ones and it counts as lost
_MAX_PINGS = 3
_REFUSALS = 3  # in a row, until it is told: the first may be of a server that is just being set up
_TOGETHER = 0.001  # seconds that telemetry may wait for more of it: nothing to a network, ten times a loop's turn
_CAST_LIMIT = 256 * 1024  # bytes of it that may wait: a publisher that never lets the loop turn is made to wait itself
_MOST_POSTS = 20_000  # that wait for a connection that takes no more: acknowledgements and answers, 100 bytes as a rule
_FLUSH_PATIENCE = 2.0  # seconds that closing waits for the server to have taken what was sent
_CLOSE_PATIENCE = 3.0  # seconds that closing takes at most: a server that ends at the same moment may leave it hanging
_MAX_SUBJECTS = 65_536  # bytes of a publish that aren't payload; the server's limit is on payload and headers together


class LinkState(enum.Enum):
    """What becomes of a connection."""

    LOST = "lost"
    """The server is out of reach; attempts to come back go on."""
    BACK = "back"
    """Connected again, subscriptions restored."""
    TROUBLE = "trouble"
    """The server or the client refused something (a permission, a slow consumer); the connection stands."""
    REFUSED = "refused"
    """The server is there and lets us in no more: who waits for it may wait for ever. Attempts go on."""
    CLOSED = "closed"
    """Over for good: closed on purpose."""


OnState = Callable[[LinkState, str], None]
"""Told of each change and the reason, in words."""


Listener = Callable[[str, bytes], None]
"""Takes (subject, data)."""


class Link:
    """A connection of nats-py with what it lacks: a first attempt that fails fast, jitter, and posts that never block."""

    def __init__(self, url: str, name: str, token: Secret, on_state: OnState | None) -> None:
        self.nc = Client()
        self.nc.msg_class = self._message  # type: ignore[assignment]
        self.up = False
        self.closed = False
        self.address = address_of(url)
        self.away = 0.0
        """Seconds that the last absence of the server took."""
        self.back_at = float("-inf")
        """When (`time.monotonic`) the last absence ended."""
        self.dropped = 0
        """Messages that came, or should have gone out, and had no room."""
        self.on_back: list[Callable[[], None]] = []
        """Called after each reconnection, once subscriptions are restored."""
        self._servers = in_turn(url, name)
        self._name = name
        self._access = Access(token)
        self._on_state = on_state
        self._is_up = asyncio.Event()
        self._lost_at = 0.0
        self._attempts = 0
        self._refusals = 0
        self._last_error = ""
        self._listeners: dict[int, Listener] = {}
        self._posts: deque[tuple[str, bytes, str]] = deque()
        self._posting: asyncio.Task[None] | None = None
        self._casts: deque[tuple[str, bytes]] = deque()
        self._cast_bytes = 0
        self._cast_timer: asyncio.TimerHandle | None = None
        self._casting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._probes: dict[bytes, asyncio.Future[None]] = {}
        self._probe_number = 0
        self._inbox = ""
        self._segments = (0, 0)

    async def open(self) -> None:
        """Connect. Raises `Unreachable` at once where the first attempt fails."""
        try:
            await self.nc.connect(
                list(self._servers),
                dont_randomize=True,
                name=self._name,
                **self._access.for_nats_py(self.nc),
                error_cb=self._erred,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._was_closed,
                connect_timeout=_CONNECT_TIMEOUT,
                ping_interval=_PING_INTERVAL,
                max_outstanding_pings=_MAX_PINGS,
                reconnect_to_server_handler=self._next_attempt,
                # With reconnection allowed the first `connect` would try for ever instead of saying what is wrong.
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
            )
        except (OSError, errors.Error, TimeoutError) as error:
            said = self._last_error or str(error) or type(error).__name__
            raise Unreachable(why_unreachable(self.address, said)) from error
        self.nc.options["allow_reconnect"] = True
        self.nc.options["max_reconnect_attempts"] = -1
        self._inbox = self.nc.new_inbox()
        await self.nc.subscribe(self._inbox, cb=self._probe_returned)
        self._set_up()
        self.retransmitted()

    def _next_attempt(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        """For nats-py: which server to try and after how many seconds. The jitter keeps a fleet from coming all at once."""
        wait = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(self._attempts, 16))
        self._attempts += 1
        self._access.renew(self.nc)
        if len(self._servers) > 1:
            # Not those that servers tell of: it is known where this participant is to connect, and perhaps by which link.
            given = {place_of(url) for url in self._servers}
            servers = [server for server in servers if (server.uri.hostname, server.uri.port) in given]
        return servers[self._attempts % len(servers)], wait * random.uniform(0.5, 1.0)

    async def _erred(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__
        if not self.up and "authorization" in self._last_error.lower():
            self._refusals += 1
            if self._refusals == _REFUSALS:
                self._tell(LinkState.REFUSED, why_unreachable(self.address, self._last_error))
        if isinstance(error, errors.SlowConsumerError):  # told once for each message
            self.dropped += 1
            said = f"{self.dropped} messages so far, the last on {error.subject}, were dropped: too many were waiting"
            self._tell(LinkState.TROUBLE, f"slow_consumer: {said}")
        elif self.up and "permissions violation" in self._last_error.lower():
            self._tell(LinkState.TROUBLE, f"permission: {self._last_error.removeprefix('nats: ')}")

    async def _disconnected(self) -> None:
        if self.up:
            self.up = False
            self._is_up.clear()
            self._lost_at = time.monotonic()
            self.dropped += len(self._posts) + len(self._casts)
            self._posts.clear()
            self._casts.clear()
            if not self.closed:
                self._tell(LinkState.LOST, self._last_error or "the connection ended")

    async def _reconnected(self) -> None:
        self.back_at = time.monotonic()
        self.away = self.back_at - self._lost_at
        self._attempts = self._refusals = 0
        self._segments = (0, 0)
        self._set_up()
        self._tell(LinkState.BACK, f"the server was out of reach for {self.away:.1f} s")
        for listener in self.on_back:
            listener()

    async def _was_closed(self) -> None:
        self.up = False
        self.closed = True
        self._tell(LinkState.CLOSED, str(self.nc.last_error or "closed"))

    def _set_up(self) -> None:
        self.up = True
        self._is_up.set()

    def _tell(self, state: LinkState, reason: str) -> None:
        if self._on_state is not None:
            self._on_state(state, reason)

    async def wait_up(self, timeout: float) -> None:
        """Returns once connected. Raises `Unreachable` after `timeout` seconds, or when the link was closed."""
        if self.up:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._is_up.wait()
        except TimeoutError:
            raise Unreachable(
                f"{self.address} is out of reach; it is tried again all the time: is the server up?"
            ) from None

    def _message(self, *, subject: str, data: bytes, _sid: int, **rest: Any) -> Msg | None:
        """In place of nats-py's class of messages: hands telemetry over right here, without a message, a queue or a task.

        That halves the cost of receiving. nats-py goes on with the next message where it is given None.
        """
        listener = self._listeners.get(_sid)
        if listener is None:
            return Msg(subject=subject, data=data, _sid=_sid, **rest)
        listener(subject, data)
        return None

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """A core subscription whose listener is called as the bytes come in. It must neither raise nor wait."""

        async def early(msg: Msg) -> None:
            listener(msg.subject, msg.data)

        await self.flush()
        subscription = await self.nc.subscribe(subject, cb=early)
        # nats-py doesn't publish a subscription's id, only that of each message (`Msg.sid`).
        self._listeners[subscription._id] = listener
        return subscription

    async def silence(self, subscription: Subscription) -> None:
        """End a core subscription, of whatever kind; no-op where it has ended."""
        self._listeners.pop(subscription._id, None)
        with contextlib.suppress(errors.Error):
            await subscription.unsubscribe()

    @property
    def clustered(self) -> bool:
        """Whether the server is one of several, any of which may lead a stream."""
        return is_clustered(self.nc)

    @property
    def distant(self) -> bool:
        """Whether what is stored may be on another server than this one, which says nothing when that one is away."""
        return self.clustered or not self.nc._server_info.get("jetstream")

    @property
    def max_payload(self) -> int:
        """Bytes that a message may have, headers and subject allowed for."""
        return self.nc.max_payload - _MAX_SUBJECTS

    def post(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        """Publish soon, in order, without waiting. Dropped while the server is away."""
        if not self.up or len(self._posts) >= _MOST_POSTS:
            self.dropped += 1
            return
        self._posts.append((subject, data, reply))
        if self._posting is None:
            self._posting = asyncio.get_running_loop().create_task(self._post_all())

    async def posted(self) -> None:
        """Returns once what was posted has been handed to the connection."""
        posting = self._posting
        if posting is not None:
            await asyncio.wait([posting])

    async def _post_all(self) -> None:
        await self.flush()
        while self._posts:
            subject, data, reply = self._posts.popleft()
            try:
                await self.nc.publish(subject, data, reply)
            except errors.Error as error:
                log.debug("a post on %s was dropped: %s", subject, error)
        self._posting = None

    def cast(self, subject: str, data: bytes) -> bool:
        """Publish together with what else comes within a millisecond; whether so much waits that the caller should `flush`.

        An event loop that turns after each event would otherwise write each by a system call of its own, and each would
        wake its receivers: several times the cost of everything else about it.
        """
        self._casts.append((subject, data))
        self._cast_bytes += len(data)
        if self._cast_timer is None:
            self._cast_timer = self._loop.call_later(_TOGETHER, self._cast_all)
        return self._cast_bytes > _CAST_LIMIT

    def _cast_all(self) -> None:
        if self._casts:
            self._casting = self._loop.create_task(self.flush())
        else:
            self._cast_timer = None

    async def flush(self) -> None:
        """Hand everything cast to the connection, before whatever is sent next; waits where its buffer is full."""
        if self._cast_timer is not None:
            self._cast_timer.cancel()
            self._cast_timer = None
        self._cast_bytes = 0
        casts, publish = self._casts, self.nc.publish
        try:
            while casts:
                await publish(*casts.popleft())
        except errors.Error as error:
            log.debug("telemetry was dropped: %s", error)

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:
        """The answer of whoever serves a subject, within `timeout` seconds. Raises what nats-py raises.

        A cancellation always ends it. nats-py waits with `asyncio.wait_for`, which before Python 3.12 forgets one that
        comes in the moment of the answer; a caller's own time limit would then never end it.
        """
        task = asyncio.current_task()
        assert task is not None
        cancelled_before = task.cancelling()
        try:
            return (await self.nc.request(subject, data, timeout=timeout)).data
        finally:
            if task.cancelling() > cancelled_before:
                raise asyncio.CancelledError

    async def round_trip(self, timeout: float) -> float | None:
        """Seconds for a message to this connection's own inbox, by way of the server; None after `timeout` seconds.

        A message and not a ping: nats-py's reading task dies of a pong whose waiter has given up, which on a bad link is
        the usual case. Everything sent earlier on this connection has reached the server when it returns.
        """
        if not self.up:
            return None
        self._probe_number += 1
        key = b"%d" % self._probe_number
        returned = self._probes[key] = asyncio.get_running_loop().create_future()
        await self.flush()
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                await self.nc.publish(self._inbox, key)
                await returned
            return time.perf_counter() - begun
        except (TimeoutError, errors.Error):
            return None
        finally:
            del self._probes[key]

    async def _probe_returned(self, msg: Msg) -> None:
        waiter = self._probes.get(msg.data)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def retransmitted(self) -> float | None:
        """Fraction of data segments that TCP sent again on this connection since the last call; None if unknown."""
        counted = segments_of(self._socket())
        if counted is None:
            return None
        again, sent = counted[0] - self._segments[0], counted[1] - self._segments[1]
        self._segments = counted
        return max(0, again) / sent if sent > 0 else None

    def _socket(self) -> socket.socket | None:
        # nats-py has no public way to its socket; without it there is no figure, and nothing else depends on it.
        writer = getattr(getattr(self.nc, "_transport", None), "_io_writer", None)
        return writer.get_extra_info("socket") if writer is not None else None

    async def close(self) -> None:
        """Send what is left, then go. No callback runs after it."""
        if self.closed:
            return
        self.closed = True
        # uvloop raises RuntimeError for a write to a socket that the server has closed a moment ago.
        with contextlib.suppress(errors.Error, OSError, RuntimeError):
            async with asyncio.timeout(_CLOSE_PATIENCE):
                if self.up:
                    await self.flush()
                    await self.posted()
                    await self.round_trip(_FLUSH_PATIENCE)
                await self.nc.close()
        self.up = False


def why_unreachable(address: str, said: str) -> str:
    """One line for a user: what is wrong with a server that can't be connected to, and the mend."""
    lowered = said.lower()
    if "authorization" in lowered or "authentication" in lowered:
        return (
            f"{address} refused the token or the key: give the token that `shoal up --listen` printed, or join with a new"
            " `shoal invite` line, if this machine was revoked or its invitation is used up"
        )
    if "refused" in lowered:
        return f"no server at {address}: start one with `shoal up`, or give another --server"
    return f"{address} can't be reached ({said}): check --server and the network, or start one with `shoal up`"


def is_clustered(nc: Client) -> bool:
    """Whether the server that this client greeted last is one of a cluster."""
    # nats-py has no public way to all that the server says of itself. A site's server calls itself a cluster of its own.
    return nc._server_info.get("cluster", "") not in ("", nc._server_info.get("server_name"))

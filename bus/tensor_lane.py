"""A connection for chunks that lasts: it comes back by itself, with its subscriptions."""

import asyncio
import contextlib
import json
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from bus.congestion import ask_for_bbr
from bus.credentials import Access, BadCredentials, Secret
from bus.nats_link import why_unreachable
from bus.port import Unreachable
from bus.server_config import is_loopback
from bus.several import address_of, in_turn, place_of
from bus.tensor_wire import Connection, Heard

log = logging.getLogger("shoal.bus")

_CONNECT_TIMEOUT = 5.0  # seconds for one attempt to connect and greet
_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0  # seconds between attempts to come back, as on the control connection
_CLOSE_PATIENCE = 2.0  # seconds that closing waits for the server to have taken what was sent
_PING_INTERVAL = 10.0  # seconds; a host that vanishes is noticed after three unanswered pings
_UNANSWERED = 3
WRITE_AHEAD = 512 * 1024  # bytes, two chunks, that a node's lanes together leave to their sockets
_FAILURES = (OSError, TimeoutError, ValueError, BadCredentials)  # of an attempt to connect; ssl's errors are OSErrors


class Lane:
    """See the module.

    Attributes:
        name: for the server's lists and for logs.
        up: whether it is connected.
        bbr: whether what it sends isn't throttled by losses (`bus.congestion`).
        on_back: called after each reconnection.
    """

    def __init__(self, url: str, name: str, token: Secret) -> None:
        self._servers = in_turn(url, name)
        parts = urlsplit(self._servers[0])
        self._address = address_of(url)
        self._places = [place_of(one) for one in self._servers]
        self._at = 0  # which of them is tried, or was reached
        self._tls = parts.scheme == "tls"
        self._in_url = credentials(parts.username, parts.password)
        self._access = Access(token)
        self.name = name
        self.up = self.bbr = False
        self.on_back: list[Callable[[], None]] = []
        self._closed = False
        self._is_up = asyncio.Event()
        self._connection: Connection | None = None
        self._keeper: asyncio.TimerHandle | None = None
        self._returning: asyncio.Task[None] | None = None
        self._patterns: dict[int, tuple[str, str]] = {}
        self._heard: dict[int, Heard] = {}
        self._last_sid = 0
        self._write_ahead = WRITE_AHEAD

    async def open(self) -> None:
        """Connect. Raises `Unreachable` where the first attempt, or that at the last of several servers, fails."""
        for left in reversed(range(len(self._places))):
            try:
                await self._connect()
                return
            except _FAILURES as error:
                if not left:
                    raise Unreachable(why_unreachable(self._address, str(error) or type(error).__name__)) from error
                self._at += 1

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        host, port = self._places[self._at % len(self._places)]
        connection = Connection(self._heard, self._ended, self._write_ahead)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                transport, _ = await loop.create_connection(lambda: connection, host, port, ssl=self._access.tls())
                if not is_loopback(host):  # nothing gets lost there
                    self.bbr = ask_for_bbr(transport)
                info = await connection.info
                if transport.get_extra_info("ssl_object") is None and (self._tls or info.get("tls_required")):
                    await self._encrypt(connection, host)
                connection.write(b"CONNECT " + json.dumps(self._greeting(str(info.get("nonce", "")))).encode() + b"\r\n")
                await self._subscribe_all(connection)
        except BaseException:
            connection.abort("it didn't greet in time")
            raise
        self._connection = connection
        self.up = True
        self._is_up.set()
        self._keeper = loop.call_later(_PING_INTERVAL, self._keep_alive)

    async def _subscribe_all(self, connection: Connection) -> None:
        """Until the server knows of every subscription, of those made meanwhile, too."""
        told: dict[int, tuple[str, str]] = {}
        while True:
            for sid in told.keys() - self._patterns.keys():
                connection.write(_unsub(sid))
            for sid in self._patterns.keys() - told.keys():
                connection.write(_sub(*self._patterns[sid], sid))
            told = dict(self._patterns)
            await connection.ping()
            if told == self._patterns:
                return

    async def _encrypt(self, connection: Connection, host: str) -> None:
        context = ssl.create_default_context()
        transport = await asyncio.get_running_loop().start_tls(
            connection.transport, connection, context, server_hostname=host
        )
        if transport is None:
            raise ConnectionResetError("the connection ended while it was being encrypted")
        connection.use(transport)

    def _greeting(self, nonce: str) -> dict[str, object]:
        return {
            "verbose": False,
            "pedantic": False,
            "echo": False,  # a node that follows its own kind has no use for its own chunks
            "headers": True,
            "no_responders": True,
            "name": self.name,
            "lang": "python3",
            "version": "shoal",
            "protocol": 1,
            **(self._access.greeting(nonce) or self._in_url),
        }

    def _ended(self, connection: Connection) -> None:
        if connection is not self._connection:
            return  # an attempt that failed; whoever made it knows
        self._connection = None
        self.up = False
        self._is_up.clear()
        if self._keeper is not None:
            self._keeper.cancel()
        if not self._closed:
            log.info("%s: lost: %s", self.name, connection.error or "the connection ended")
            self._returning = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        wait = _FIRST_RETRY
        while True:
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(_LAST_RETRY, wait * 2)
            self._at += 1
            try:
                await self._connect()
            except _FAILURES as error:
                log.debug("%s: not yet: %s", self.name, error)
                continue
            for listener in self.on_back:
                listener()
            return

    async def wait_up(self, timeout: float) -> None:
        """Returns once connected. Raises `Unreachable` after `timeout` seconds, or if it was closed."""
        if not self.up and not self._closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._is_up.wait()
        if not self.up:
            raise Unreachable(f"{self._address} is out of reach: is the server up?")

    async def publish(self, subject: str, parts: Sequence[bytes | memoryview], reply: str = "") -> None:
        """Send a message made of `parts`, which are not copied; returns when the socket may take more.

        Raises:
            ConnectionError: not connected any more; the message is lost, and so may be earlier ones.
        """
        if self._connection is None:
            raise ConnectionResetError("not connected")
        await self._connection.publish(subject, parts, reply)

    def write_ahead(self, size: int) -> None:
        """Have `publish` leave so many bytes to the socket without waiting."""
        self._write_ahead = size
        if self._connection is not None:
            self._connection.write_ahead(size)

    def subscribe(self, pattern: str, group: str, heard: Heard) -> int:
        """Hear a pattern; a group's members share its messages. Returns the subscription's id."""
        self._last_sid += 1
        self._patterns[self._last_sid] = (pattern, group)
        self._heard[self._last_sid] = heard
        if self._connection is not None:
            self._connection.write(_sub(pattern, group, self._last_sid))
        return self._last_sid

    def unsubscribe(self, sid: int) -> None:
        """Hear it no more."""
        self._heard.pop(sid, None)
        if self._patterns.pop(sid, None) is not None and self._connection is not None:
            self._connection.write(_unsub(sid))

    def drain(self) -> None:
        """Have the server send nothing more; what it has sent by then is heard still."""
        told, self._patterns = self._patterns, {}
        for sid in told:
            if self._connection is not None:
                self._connection.write(_unsub(sid))

    async def barrier(self, timeout: float) -> bool:
        """Whether everything sent before has reached the server, and everything it sent before has been heard."""
        if self._connection is None:
            return False
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._connection.ping())
        except (TimeoutError, OSError):
            return False
        return True

    def _keep_alive(self) -> None:
        if self._connection is None:
            return
        if len(self._connection.unanswered) >= _UNANSWERED:
            self._connection.abort("the server stopped answering")
            return
        self._connection.ping().add_done_callback(_heed)
        self._keeper = asyncio.get_running_loop().call_later(_PING_INTERVAL, self._keep_alive)

    async def close(self) -> None:
        """Send what is left, then go."""
        self._closed = True
        if self._returning is not None:
            self._returning.cancel()
        await self.barrier(_CLOSE_PATIENCE)
        if self._connection is not None:
            self._connection.abort("closed")


def credentials(user: str | None, password: str | None) -> dict[str, str]:
    """What CONNECT says of who we are, from a URL; a token in it is its user without a password."""
    if user and password:
        return {"user": user, "pass": password}
    return {"auth_token": user} if user else {}


def _sub(pattern: str, group: str, sid: int) -> bytes:
    return f"SUB {pattern} {group} {sid}\r\n".encode()


def _unsub(sid: int) -> bytes:
    return b"UNSUB %d\r\n" % sid


def _heed(pong: "asyncio.Future[None]") -> None:
    """Nobody waits for this one: that it failed is no news."""
    if not pong.cancelled():
        pong.exception()

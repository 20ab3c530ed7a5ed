"""The proxy: what a node connects to instead of the server, so that everything between them goes over an emulated link."""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bus.shaping.congestion import CongestionControl, handshake_delay, tcp_path
from bus.shaping.link import RoundTrip, Transmitter
from bus.shaping.profiles import LinkProfile
from bus.shaping.relay import End, Lane

RECEIVE_BUFFER = 64 * 1024
"""Bytes of kernel buffer in front of the proxy on each socket: what a sender's kernel would hold unsent anyway. Left to
itself Linux takes megabytes, and a sender would believe sent what needs a minute on a poor link."""

SEGMENT = 1448
"""Bytes a segment on the loopback sockets, as on a real link: senders' kernels size their own buffers by it."""

MOST_IN_FLIGHT = 4 * 1024 * 1024
"""Bytes on the way per connection and direction, at most: what Linux lets a sender keep for retransmission (tcp_wmem)."""

LEAST_IN_FLIGHT = 64 * 1024
"""Bytes on the way that are always allowed, so that an odd profile can't stall itself."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What went through a proxy since it started. Bytes count what was delivered on connections that are open or ended."""

    connections: int
    """Open now."""
    accepted: int
    up_bytes: int
    down_bytes: int
    in_flight_bytes: int
    """Bytes under way now, both directions."""


class ShapingProxy:
    """A TCP proxy whose connections share one emulated link to the upstream server.

    Both directions have the profile's delay, rate and queue; each connection is capped by what congestion control makes of
    the link. It takes changes while it runs. All of it must be used from the event loop that started it.
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        profile: LinkProfile,
        cc: str | CongestionControl = CongestionControl.CUBIC,
        seed: int = 0,
        *,
        others: Sequence[tuple[str, int]] = (),
    ) -> None:
        """`others`: servers, tried in turn where the first doesn't listen."""
        self.profile = profile
        self.control = CongestionControl(cc)
        self.port = 0
        """The port it listens on, known after `start`."""
        self._upstream = ((upstream_host, upstream_port), *others)
        self._seed = seed
        rng = random.Random(f"{seed}:link")
        self._round_trip = RoundTrip(profile.round_trip, profile.jitter_ms / 1e3, rng)
        self._up = Transmitter(profile.rate, profile.queue)
        self._down = Transmitter(profile.rate, profile.queue)
        self._spike_ms = 0.0
        self._path = tcp_path(profile, self.control)
        self._connected = asyncio.Event()
        self._connected.set()
        self._spike_end: asyncio.TimerHandle | None = None
        self._outage_end: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._accepted = 0
        self._past = [0, 0]

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; returns the port. Raises `OSError` where it is taken."""
        listener = _socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        self._server = await asyncio.get_running_loop().create_server(self._accept, sock=listener)
        self.port = listener.getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        self.heal()
        if self._server is not None:
            self._server.close()
        await self._reset_all()

    def counters(self) -> LinkCounters:
        """What went through so far."""
        open_now = tuple(self._connections)
        return LinkCounters(
            connections=len(open_now),
            accepted=self._accepted,
            up_bytes=self._past[0] + sum(c.up.delivered for c in open_now),
            down_bytes=self._past[1] + sum(c.down.delivered for c in open_now),
            in_flight_bytes=sum(c.up.held + c.down.held for c in open_now),
        )

    # -- control ------------------------------------------------------------------------------------------------------

    @property
    def disconnected(self) -> bool:
        """Whether the link is down."""
        return not self._connected.is_set()

    @property
    def spike_ms(self) -> float:
        """What a latency spike adds to the round trip now."""
        return self._spike_ms

    def set_profile(self, profile: LinkProfile) -> None:
        """Make it another link, for open connections too. What is under way arrives as it would have."""
        self.profile = profile
        self._apply()

    def spike(self, extra_ms: float, seconds: float) -> None:
        """Add to the round trip for some seconds; a second spike replaces the first."""
        self._end_timer(self._spike_end)
        self._spike_ms = extra_ms
        self._spike_end = asyncio.get_running_loop().call_later(seconds, self._end_spike)
        self._apply()

    def disconnect(self, seconds: float) -> None:
        """Take the link down for some seconds: open connections are reset, new ones are accepted but get no answer.

        Home links that drop come back with another address or an empty translation table, so connections don't outlive
        them. A new one isn't refused, since nothing on a dead link could say so: it hangs, as a lost SYN does, and goes on
        once the link is back, or the client's time-out ends it. Both ends of an open one learn of it at once, where a real
        server would hear nothing until its pings time out. For a stall that connections outlive, use `spike`.
        """
        self._end_timer(self._outage_end)
        self._connected.clear()
        for connection in tuple(self._connections):
            connection.reset()
        self._outage_end = asyncio.get_running_loop().call_later(seconds, self._end_outage)

    def heal(self) -> None:
        """End a spike and an outage now; the profile stays."""
        self._end_timer(self._spike_end)
        self._end_timer(self._outage_end)
        self._end_outage()
        if self._spike_ms:
            self._end_spike()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        now = time.monotonic()
        self._path = tcp_path(self.profile, self.control, self._spike_ms)
        self._round_trip.change(self.profile.slower_by(self._spike_ms).round_trip, self.profile.jitter_ms / 1e3)
        for transmitter in (self._up, self._down):
            transmitter.change(now, self.profile.rate, self.profile.queue)
        for connection in self._connections:
            for lane in (connection.up, connection.down):
                lane.change(self._path, self._bound())

    def _bound(self) -> int:
        """Bytes under way that fill the link: its queue and the bandwidth-delay product of its longest round trip."""
        longest = self.profile.slower_by(self._spike_ms).round_trip[1]
        return max(LEAST_IN_FLIGHT, min(MOST_IN_FLIGHT, int(self.profile.rate * (self.profile.queue + longest))))

    def _end_spike(self) -> None:
        self._spike_ms = 0.0
        self._apply()

    def _end_outage(self) -> None:
        self._connected.set()

    @staticmethod
    def _end_timer(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def _lane(self, link: Transmitter, rng: random.Random) -> Lane:
        return Lane(self._path, self._bound(), link, self._round_trip, rng)

    def _accept(self) -> End:
        """A client came: its end of a new connection."""
        self._accepted += 1
        name = f"{self._seed}:{self._accepted}"
        up = self._lane(self._up, random.Random(f"{name}:up"))
        down = self._lane(self._down, random.Random(f"{name}:down"))
        connection = _Connection(self, up, down, random.Random(f"{name}:handshake"))
        self._connections.add(connection)
        return connection.client

    async def open_upstream(self, connection: "_Connection", rng: random.Random) -> None:
        """Reach a server over the link. Raises `OSError` where none listens."""
        await self._connected.wait()
        await asyncio.sleep(handshake_delay(self._path, rng))
        loop = asyncio.get_running_loop()
        for left, place in zip(reversed(range(len(self._upstream))), self._upstream, strict=True):
            family, _, _, _, address = (await loop.getaddrinfo(*place, type=socket.SOCK_STREAM))[0]
            sock = _socket(family)
            try:
                await loop.sock_connect(sock, address)
                await loop.create_connection(lambda: connection.server, sock=sock)
                return
            except OSError:
                sock.close()
                if not left:
                    raise
            except BaseException:
                sock.close()
                raise

    def forget(self, connection: "_Connection") -> None:
        """A connection is over."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._past[0] += connection.up.delivered
            self._past[1] += connection.down.delivered

    async def _reset_all(self) -> None:
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for connection in tuple(self._connections):
            connection.reset()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection:
    """A client's socket, the server's, and the two lanes between them."""

    def __init__(self, proxy: ShapingProxy, up: Lane, down: Lane, rng: random.Random) -> None:
        self.up = up
        self.down = down
        self.client = End(away=up, here=down, on_open=self._client_came, on_lost=self._lost)
        self.server = End(away=down, here=up, on_open=self._server_came, on_lost=self._lost)
        self.task: asyncio.Task[None] | None = None
        self._proxy = proxy
        self._rng = rng
        self._over = False

    def reset(self) -> None:
        """Break it on both sides, now."""
        if self.task is not None:
            self.task.cancel()
        self._close()
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.abort()

    def _client_came(self) -> None:
        if self._over:  # the link went down, or the proxy closed, between its coming and this call
            self.reset()
            return
        self.task = asyncio.get_running_loop().create_task(self._reach_server())

    async def _reach_server(self) -> None:
        try:
            await self._proxy.open_upstream(self, self._rng)
        except OSError as error:
            log.warning("the emulated link's upstream can't be reached: %s", error)
            self.reset()

    def _server_came(self) -> None:
        client, server = self.client.transport, self.server.transport
        if self._over or client is None or server is None or client.is_closing():
            self.reset()
            return
        self.up.start(client, server, self._ended)
        self.down.start(server, client, self._ended)

    def _ended(self) -> None:
        """One direction has been written to its end; close after the second."""
        if self.up.finished and self.down.finished:
            self._close()
            for end in (self.client, self.server):
                if end.transport is not None:
                    end.transport.close()

    def _lost(self) -> None:
        if self.task is not None and not self.task.done() and self.server.transport is None:
            self.task.cancel()
            self._close()
        ends = (self.client.transport, self.server.transport)
        if all(transport is None or transport.is_closing() for transport in ends):
            self._close()

    def _close(self) -> None:
        self._over = True
        self.up.close()
        self.down.close()
        self._proxy.forget(self)


def _socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    with contextlib.suppress(OSError, AttributeError):  # not every system has it; then only senders' buffers differ
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    return sock

"""The shaping proxy between real sockets: what arrives, in which order, and what spikes, outages and full buffers do."""

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from typing import Any

import pytest
import uvloop

from bus.shaping import PROFILES, LinkProfile, ShapingProxy
from bus.shaping.link import LARGEST_READ

PATIENCE = 20.0  # seconds; only a failing test waits this long
QUICK = LinkProfile(name="quick", round_trip_ms=(0, 2), loss=0.0, rate_mbit=1000, queue_ms=50)
# Loses much and jitters much, but at a small round trip, so that disorder would show soon and tests stay short.
ROUGH = LinkProfile(name="rough", round_trip_ms=(1, 8), loss=0.02, rate_mbit=500, queue_ms=20, jitter_ms=2)
NARROW = LinkProfile(name="narrow", round_trip_ms=(10, 20), loss=0.0, rate_mbit=8, queue_ms=50)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    return factory


class Far:
    """A server at the far end of a link, and what happened to it."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Streams] = asyncio.Queue()
        self.port = 0

    async def next(self) -> Streams:
        return await asyncio.wait_for(self.came.get(), PATIENCE)


@contextlib.asynccontextmanager
async def linked(profile: LinkProfile, cc: str = "cubic", seed: int = 1) -> AsyncIterator[tuple[ShapingProxy, Far]]:
    far = Far()
    server = await asyncio.start_server(lambda r, w: far.came.put_nowait((r, w)), "127.0.0.1", 0)
    far.port = server.sockets[0].getsockname()[1]
    proxy = ShapingProxy("127.0.0.1", far.port, profile, cc, seed)
    await proxy.start()
    try:
        yield proxy, far
    finally:
        await proxy.close()
        server.close()
        while not far.came.empty():
            far.came.get_nowait()[1].close()


async def dial(proxy: ShapingProxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def pair(proxy: ShapingProxy, far: Far) -> tuple[Streams, Streams]:
    """A connection through the link: the client's end, the server's end."""
    near = await dial(proxy)
    return near, await far.next()


async def pour(writer: asyncio.StreamWriter, data: bytes, rng: random.Random) -> None:
    """Write in pieces of all sizes, then say that nothing follows."""
    at = 0
    while at < len(data):
        size = rng.choice([1, 7, 200, 1448, 5000, 70_000])
        writer.write(data[at : at + size])
        await writer.drain()
        at += size
    writer.write_eof()


async def read(reader: asyncio.StreamReader, count: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(count), PATIENCE)


async def is_cut(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), PATIENCE) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bytes_arrive_whole_and_in_order_both_ways(
    seed: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        up, down = rng.randbytes(300_000), rng.randbytes(200_000)
        async with linked(ROUGH, "bbr", seed) as (proxy, far):
            near, distant = await pair(proxy, far)
            sending = asyncio.gather(pour(near[1], up, rng), pour(distant[1], down, rng))
            arrived = await asyncio.wait_for(asyncio.gather(distant[0].read(-1), near[0].read(-1)), PATIENCE)
            await sending
            assert [hashlib.sha256(data).digest() for data in arrived] == [
                hashlib.sha256(data).digest() for data in (up, down)
            ]
            counted = proxy.counters()
            assert (counted.up_bytes, counted.down_bytes) == (len(up), len(down))
            assert counted.in_flight_bytes == 0

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


async def test_many_connections_keep_their_bytes_apart() -> None:
    async with linked(ROUGH, "bbr") as (proxy, far):
        ends = [await pair(proxy, far) for _ in range(8)]
        bodies = [bytes([n]) * 20_000 for n in range(8)]
        for (near, _), body in zip(ends, bodies, strict=True):
            near[1].write(body)
        arrived = await asyncio.gather(*(read(distant[0], 20_000) for _, distant in ends))
        assert arrived == bodies
        assert proxy.counters().connections == proxy.counters().accepted == 8


async def test_the_server_may_speak_first() -> None:
    async with linked(QUICK) as (proxy, far):
        near, distant = await pair(proxy, far)
        distant[1].write(b"INFO {}\r\n")
        assert await asyncio.wait_for(near[0].readline(), PATIENCE) == b"INFO {}\r\n"


async def test_one_who_has_said_all_still_hears_the_answer() -> None:
    async with linked(QUICK) as (proxy, far):
        near, distant = await pair(proxy, far)
        near[1].write(b"question")
        near[1].write_eof()
        assert await asyncio.wait_for(distant[0].read(-1), PATIENCE) == b"question"
        distant[1].write(b"answer")
        distant[1].write_eof()
        assert await asyncio.wait_for(near[0].read(-1), PATIENCE) == b"answer"
        near[1].close()


async def test_a_reset_reaches_the_other_side() -> None:
    async with linked(QUICK) as (proxy, far):
        near, distant = await pair(proxy, far)
        near[1].transport.abort()
        assert await is_cut(distant[0])
        near, distant = await pair(proxy, far)
        distant[1].transport.abort()
        assert await is_cut(near[0])


async def test_a_client_is_cut_off_where_no_server_listens() -> None:
    free = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = free.sockets[0].getsockname()[1]
    free.close()
    proxy = ShapingProxy("127.0.0.1", port, QUICK)
    await proxy.start()
    reader, writer = await dial(proxy)
    assert await is_cut(reader)
    assert proxy.counters().connections == 0
    writer.close()
    await proxy.close()


async def test_of_several_servers_the_first_that_listens_is_at_the_other_end() -> None:
    gone = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    nobody = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    async with linked(QUICK) as (alive, far):
        proxy = ShapingProxy("127.0.0.1", nobody, QUICK, others=[("127.0.0.1", alive.port)])
        await proxy.start()
        (_, near), (reader, _) = await dial(proxy), await far.next()
        near.write(b"hello")
        assert await read(reader, 5) == b"hello"
        near.close()
        await proxy.close()


async def test_closing_the_proxy_cuts_everybody_off() -> None:
    async with linked(QUICK) as (proxy, far):
        near, distant = await pair(proxy, far)
        await proxy.close()
        assert await is_cut(near[0])
        assert await is_cut(distant[0])
        with pytest.raises(OSError):
            await dial(proxy)


async def happens(condition: Callable[[], bool]) -> None:
    """Give the loop turns until it is so: a busy kernel brings bytes when it can, in no order between sockets."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0)


async def round_trip(near: Streams, distant: Streams) -> float:
    """Seconds there and back, by the event loop's clock."""
    begun = asyncio.get_running_loop().time()
    near[1].write(b"ping")
    distant[1].write(await read(distant[0], 4))
    await read(near[0], 4)
    return asyncio.get_running_loop().time() - begun


async def test_nothing_is_faster_than_the_link() -> None:
    far_away = LinkProfile(name="far", round_trip_ms=(60, 60), loss=0.0, rate_mbit=1000, queue_ms=50)
    async with linked(far_away) as (proxy, far):
        near, distant = await pair(proxy, far)
        # Each way may be early by a rounding of the event loop's timers, to 1 ms.
        assert await round_trip(near, distant) >= 0.058


async def test_a_spike_delays_and_ends() -> None:
    async with linked(QUICK) as (proxy, far):
        near, distant = await pair(proxy, far)
        proxy.spike(200, 3600)
        assert proxy.spike_ms == 200
        assert await round_trip(near, distant) >= 0.198
        proxy.heal()
        assert proxy.spike_ms == 0
        ended = asyncio.Event()
        proxy.spike(1, 0.001)
        asyncio.get_running_loop().call_later(0.003, ended.set)
        await asyncio.wait_for(ended.wait(), PATIENCE)
        assert proxy.spike_ms == 0
        near[1].write(b"on")
        assert await read(distant[0], 2) == b"on"


async def test_what_was_sent_in_a_spike_is_not_overtaken_after_it() -> None:
    async with linked(QUICK) as (proxy, far):
        near, distant = await pair(proxy, far)
        proxy.spike(400, 3600)
        near[1].write(b"first")
        await happens(lambda: proxy.counters().in_flight_bytes == 5)
        proxy.heal()
        near[1].write(b"second")
        assert await read(distant[0], 11) == b"firstsecond"


async def test_another_profile_holds_for_open_connections() -> None:
    async with linked(NARROW) as (proxy, far):
        near, distant = await pair(proxy, far)
        body = os.urandom(5 << 20) * 8  # 40 s at the narrow rate
        near[1].write(body)
        await read(distant[0], 20_000)
        proxy.set_profile(QUICK)
        assert proxy.profile is QUICK
        assert await read(distant[0], len(body) - 20_000) == body[20_000:]


async def test_an_outage_cuts_what_is_open_and_holds_what_is_new() -> None:
    async with linked(QUICK) as (proxy, far), linked(QUICK) as (other, other_far):
        near, distant = await pair(proxy, far)
        proxy.disconnect(3600)
        assert proxy.disconnected
        assert await is_cut(near[0])
        assert await is_cut(distant[0])

        waiting = await dial(proxy)
        waiting[1].write(b"anyone there?")
        # Meanwhile another link, started later, carries a connection: the dead one had every chance to.
        await round_trip(*await pair(other, other_far))
        assert far.came.empty()

        proxy.heal()
        assert not proxy.disconnected
        distant = await far.next()
        assert await read(distant[0], 13) == b"anyone there?"
        distant[1].write(b"yes")
        assert await read(waiting[0], 3) == b"yes"


async def test_an_outage_ends_by_itself() -> None:
    async with linked(QUICK) as (proxy, far):
        proxy.disconnect(0.01)
        near = await dial(proxy)
        near[1].write(b"back")
        distant = await far.next()
        assert await read(distant[0], 4) == b"back"
        assert not proxy.disconnected


async def test_an_outage_cuts_connections_that_are_being_made() -> None:
    distant_profile = LinkProfile(name="distant", round_trip_ms=(5000, 5000), loss=0.0, rate_mbit=1000, queue_ms=50)
    async with linked(distant_profile) as (proxy, far):
        near = await dial(proxy)
        await happens(lambda: proxy.counters().connections == 1)
        proxy.disconnect(3600)
        assert await is_cut(near[0])
        assert far.came.empty()


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_sender_whose_receiver_does_not_read_is_held_up(who: str) -> None:
    async with linked(PROFILES["good"], "bbr") as (proxy, far):
        near, distant = await pair(proxy, far)
        sender, receiver = (near, distant) if who == "client" else (distant, near)
        receiver[1].transport.pause_reading()
        sender[1].write(bytes(64 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sender[1].drain(), 0.5)
        bound = PROFILES["good"].rate * 0.15  # its queue and its longest round trip
        assert 0 < proxy.counters().in_flight_bytes <= bound + LARGEST_READ
        near[1].transport.abort()
        distant[1].transport.abort()


async def test_a_busy_connection_delays_another_by_no_more_than_the_queue() -> None:
    """A probe may wait for what is queued in front of it, never for what the busy sender's kernel still holds."""
    async with linked(NARROW, "bbr") as (proxy, far):
        (busy, drain), (near, distant) = await pair(proxy, far), await pair(proxy, far)
        body = bytes(2_000_000)  # 2 s at this rate
        busy[1].write(body)
        await read(drain[0], 50_000)
        near[1].write(b"ping")
        assert await read(distant[0], 4) == b"ping"
        # The ping overtook most of what had been written before it.
        assert proxy.counters().up_bytes < len(body) / 2
        busy[1].transport.abort()


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that are set."""

    timers = 0

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


def test_an_idle_link_sets_no_timers() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        async with linked(ROUGH) as (proxy, far):
            near, distant = await pair(proxy, far)
            near[1].write(bytes(100_000))
            await read(distant[0], 100_000)
            await round_trip(near, distant)
            before = loop.timers
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(near[0].read(1), 0.3)
            assert loop.timers - before <= 2  # the wait's own, and one that was due when the last bytes had gone

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(scenario())

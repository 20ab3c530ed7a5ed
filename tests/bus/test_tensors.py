"""Tensors between real participants on a real server: streamed, fetched, on any loop, of any size."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tensor_exchange import PATIENCE, Exchange, fetched, frame_of, some_bytes

from bus.server import EmbeddedServer
from bus.tensor_frames import CHUNK, SHARES, SMALLEST_CHUNK, WINDOW, Kept, chunk_of, chunks_of
from bus.tensors import TensorUnavailable
from schemas.ids import BadIdentifier


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    """A server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as server:
        made = Exchange(server)
        yield made
        await made.close()


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that job processes run on: uvloop's sockets behave otherwise than asyncio's own."""
    found: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
    with suppress(ImportError):
        import uvloop

        found.append(uvloop.new_event_loop)
    return found


@pytest.mark.parametrize("loop", loops(), ids=["asyncio", "uvloop"][: len(loops())])
def test_every_way_works_on_every_loop(tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def there_and_back() -> None:
        async with EmbeddedServer(tmp_path) as server:
            exchange = Exchange(server)
            a, b = await exchange.join("a", streams=2), await exchange.join("b")
            await b.follow("delta")
            data = some_bytes(3 * WINDOW)
            held = a.keep("delta", "1", data)
            assert await a.stream("delta", "1")
            assert await fetched(b, "a", held) == data
            assert await fetched(b, "a", held) == data
            fetching = asyncio.ensure_future(fetched(b, "a", held))
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            assert await fetching == data
            await exchange.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(there_and_back())


@pytest.mark.parametrize("size", [100_000, WINDOW])
async def test_what_was_fetched_outlives_the_connection_and_stays_as_it_is(exchange: Exchange, size: int) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    held = a.keep("average", "1", some_bytes(size))
    got = await fetched(b, "a", held)
    b.keep("average", "1", got)  # what was received is passed on as it lies there
    assert await fetched(await exchange.join("c"), "b", held) == got
    await exchange.close()
    assert got == some_bytes(size)
    with pytest.raises(TypeError, match="read-only"):
        got[0] = 0


async def test_what_was_streamed_is_here_at_once(exchange: Exchange) -> None:
    a, b, c = [await exchange.join(node) for node in "abc"]
    asked = await exchange.watch("tensor.j.a.fetch.*")
    data = some_bytes(5 * CHUNK + 123)
    held = a.keep("average", "3-1", data)
    assert (held.kind, held.name, held.size) == ("average", "3-1", len(data))
    for follower in (a, b, c):
        await follower.follow("average")
    assert await a.stream("average", "3-1")
    assert await fetched(b, "a", held) == data
    assert not [msg for msg in asked.heard if b'"get"' in msg.data]
    assert await fetched(c, "a", held) == data
    (up,) = exchange.transfers["a"]
    assert (up.direction, up.bytes, up.streams) == ("up", len(data), 1)
    (down,) = exchange.transfers["b"]
    assert down.direction == "down"
    assert down.seconds > 0
    assert down.bytes == len(data) - chunk_of(len(data))  # nobody asked, so when the first chunk set out isn't known


async def test_when_a_tensor_came_is_known_until_it_is_fetched(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    await b.follow("average")
    assert b.arrived("a", "average", "1") is None
    held = a.keep("average", "1", some_bytes(5 * CHUNK))
    before = time.monotonic()
    assert await a.stream("average", "1")
    begun, whole = b.arrived("a", "average", "1") or (0.0, None)
    assert before <= begun <= (whole or 0.0) <= time.monotonic()
    await fetched(b, "a", held)
    assert b.arrived("a", "average", "1") is None


def test_tensors_of_any_size_are_cut_into_chunks_for_several_connections() -> None:
    for size in (0, 1, SMALLEST_CHUNK, 10**6, 10**7, 10**8, 10**9):
        kept = Kept("delta", "1", bytes(size)) if size < 10**8 else None
        assert SMALLEST_CHUNK <= chunk_of(size) <= CHUNK
        assert chunk_of(size) == SMALLEST_CHUNK or chunks_of(size) >= SHARES
        if kept is not None:
            assert sum(len(kept.frame(index)[1]) for index in range(kept.count)) == size


async def test_where_nobody_follows_nothing_is_sent(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    await b.follow("delta")
    a.keep("average", "1-1", some_bytes(3 * WINDOW))
    async with asyncio.timeout(PATIENCE / 2):
        assert not await a.stream("average", "1-1")
    assert exchange.transfers["a"] == []


async def test_a_node_that_follows_alone_does_not_send_to_itself(exchange: Exchange) -> None:
    a = await exchange.join("a")
    await a.follow("delta")
    held = a.keep("delta", "1", some_bytes(3 * WINDOW))
    async with asyncio.timeout(PATIENCE / 2):
        assert not await a.stream("delta", "1")
    assert a.bytes_in == 0
    assert len(await fetched(a, "a", held)) == held.size


@pytest.mark.parametrize("size", [0, 1, SMALLEST_CHUNK, SMALLEST_CHUNK + 1, 5 * CHUNK + 3, 2 * WINDOW + 7])
async def test_any_size_is_fetched_whole(exchange: Exchange, size: int) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    data = some_bytes(size)
    held = a.keep("delta", "1", data)
    assert await fetched(b, "a", held) == data
    assert await fetched(a, "a", held) == data
    assert sum(t.bytes for t in exchange.transfers["b"]) == size


async def test_several_connections_share_the_chunks(exchange: Exchange) -> None:
    a, b = await exchange.join("a", streams=3), await exchange.join("b", streams=2)
    await b.follow("delta")
    data = some_bytes(40 * CHUNK)
    held = a.keep("delta", "1", data)
    assert await a.stream("delta", "1")
    assert await fetched(b, "a", held) == data
    assert exchange.transfers["a"][0].streams == 3
    await a.set_streams(1)
    await b.set_streams(4)
    assert (a.streams, b.streams) == (1, 4)
    again = a.keep("delta", "2", data)
    assert await a.stream("delta", "2")
    assert await fetched(b, "a", again) == data
    await b.set_streams(1)
    assert await fetched(b, "a", held) == data


async def test_streams_may_change_while_a_tensor_is_under_way(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    await b.follow("delta")
    data = some_bytes(2 * WINDOW)
    held = a.keep("delta", "1", data)
    streaming = asyncio.ensure_future(a.stream("delta", "1"))
    await b.set_streams(3)
    await a.set_streams(2)
    await b.set_streams(1)
    assert await streaming
    assert await fetched(b, "a", held) == data


async def test_two_who_want_the_same_tensor_both_get_it(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    data = some_bytes(30 * CHUNK)
    held = a.keep("delta", "1", data)
    assert await asyncio.gather(*(fetched(b, "a", held) for _ in range(3))) == [data] * 3


async def test_the_latest_is_made_on_demand(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    version = 0

    def provide(kind: str) -> tuple[str, bytes] | None:
        return (str(version), some_bytes(2 * CHUNK, seed=version)) if kind == "anchor" else None

    with pytest.raises(TensorUnavailable, match="no anchor"):
        await b.fetch_latest("a", "anchor", PATIENCE)
    a.provide(provide)
    for version in (7, 8, 8):
        assert await b.fetch_latest("a", "anchor", PATIENCE) == (str(version), some_bytes(2 * CHUNK, seed=version))
    with pytest.raises(TensorUnavailable, match="no delta"):
        await b.fetch_latest("a", "delta", PATIENCE)

    async def later(kind: str) -> tuple[str, bytes] | None:
        return "9", b"nine"

    a.provide(later)
    assert await b.fetch_latest("a", "anchor", PATIENCE) == ("9", b"nine")

    def broken(kind: str) -> tuple[str, bytes] | None:
        raise ValueError("no model yet")

    a.provide(broken)
    with pytest.raises(TensorUnavailable, match="no model yet"):
        await b.fetch_latest("a", "anchor", PATIENCE)
    with pytest.raises(TensorUnavailable, match="gone"):
        await b.fetch_latest("nobody", "anchor", PATIENCE)


async def test_what_was_made_on_demand_is_let_go_a_while_after_it_was_sent(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    data = some_bytes(3 * CHUNK)
    a.provide(lambda kind: ("7", data))
    held = Kept("anchor", "7", data).held
    assert await b.fetch_latest("a", "anchor", PATIENCE) == ("7", data)
    assert await fetched(b, "a", held) == data, "who has lost some of it may ask again"
    a._outbox.made_for = 0.0

    async def ask_on() -> None:
        while True:  # until the end of a sending is noticed
            await fetched(b, "a", held)

    with pytest.raises(TensorUnavailable, match="has dropped anchor/7"):
        await ask_on()
    assert a._outbox.held("anchor", "7") is None
    a._outbox.made_for = 3600.0
    assert await b.fetch_latest("a", "anchor", PATIENCE) == ("7", data), "it is made anew"


async def test_streams_that_nobody_asked_for_are_held_within_the_budget(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b", budget=6 * CHUNK)
    await b.follow("delta")
    data = [some_bytes(2 * CHUNK, seed) for seed in range(6)]
    held = [a.keep("delta", str(number), part) for number, part in enumerate(data)]
    for tensor in held:
        assert await a.stream("delta", tensor.name)
    assert b.bytes_in <= 6 * CHUNK
    for tensor, part in zip(held, data, strict=True):
        assert await fetched(b, "a", tensor) == part
    assert b.bytes_in <= 6 * CHUNK


async def test_what_is_followed_no_more_is_not_taken_in(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    await b.follow("delta")
    await b.follow("delta")
    await b.unfollow("delta")
    await b.unfollow("delta")
    a.keep("delta", "1", some_bytes(CHUNK))
    assert not await a.stream("delta", "1")


async def test_words_of_the_protocol_and_bad_names_are_no_names(exchange: Exchange) -> None:
    a = await exchange.join("a")
    for kind in ("to", "ack", "fetch", "leave", "nobody"):
        with pytest.raises(ValueError, match="call the kind something else"):
            a.keep(kind, "1", b"")
    for bad in ("a.b", "*", "", "a b"):
        with pytest.raises(BadIdentifier):
            a.keep("delta", bad, b"")
        with pytest.raises(BadIdentifier):
            await a.follow(bad)
        with pytest.raises(BadIdentifier):
            await exchange.join(bad)


def test_a_chunk_with_its_header_is_far_below_what_a_server_takes() -> None:
    assert len(frame_of(Kept("delta", "1", some_bytes(CHUNK)), 0)) < 512 * 1024

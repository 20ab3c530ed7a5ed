"""Tensors that are lost, damaged or forged on their way, whose holder is killed, gone or mute, whose follower is slow."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tensor_exchange import PATIENCE, Exchange, fetched, frame_of, settled, some_bytes

from bus.server import EmbeddedServer
from bus.tensor_assembly import Incoming
from bus.tensor_fetch import Fetch
from bus.tensor_frames import CHUNK, WINDOW, Kept
from bus.tensor_incoming import Leave
from bus.tensors import TensorUnavailable

LOST_AFTER = 9.0  # seconds: less than after which chunks that don't come count as lost
ONE_QUESTION = 0.5  # seconds in which a question is put and comes back unheard
HOLDER = """
import asyncio, sys
from bus.tensors import TensorBus
async def main(url):
    bus = await TensorBus.connect(url, job="j", node="victim")
    held = bus.keep("delta", "1", bytes(64 * 1024 * 1024))
    print(held.digest, flush=True)
    await asyncio.Event().wait()
asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    """A server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as server:
        made = Exchange(server)
        yield made
        await made.close()


async def test_a_holder_that_is_gone_is_told_at_once(exchange: Exchange) -> None:
    b = await exchange.join("b")
    with pytest.raises(TensorUnavailable, match="nobody is gone; ask another holder"):
        await b.fetch("nobody", "delta", "1", 1000, "00" * 32, 3600.0)


async def test_a_tensor_that_was_dropped_or_made_anew_is_told(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    held = a.keep("delta", "1", some_bytes(1000))
    a.keep("delta", "1", some_bytes(1000, seed=2))
    with pytest.raises(TensorUnavailable, match="another one"):
        await fetched(b, "a", held)
    with pytest.raises(TensorUnavailable, match="another one"):
        await fetched(a, "a", held)
    a.drop("delta", "1")
    a.drop("delta", "1")
    with pytest.raises(TensorUnavailable, match="dropped"):
        await fetched(b, "a", held)
    with pytest.raises(TensorUnavailable, match="never kept"):
        await a.stream("delta", "1")


async def test_lost_chunks_are_asked_for_and_no_others(exchange: Exchange) -> None:
    a, b, relay = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(30 * CHUNK)
    held = a.keep("delta", "1", data)
    served = await exchange.watch("tensor.j.a.to.b.*.*.*")
    kept, lost = Kept("delta", "1", data), {0, 7, 8, 29}
    for index in set(range(kept.count)) - lost:
        await relay.publish(f"tensor.j.a.delta.1.0.{index * kept.chunk}", frame_of(kept, index))
    await relay.publish("tensor.j.a.delta.1.0.end", b"1")
    await relay.flush()  # or the holder says sooner that it streams nothing
    assert await fetched(b, "a", held) == data
    await served.until(lambda: any(msg.subject.endswith(".end") for msg in served.heard))
    offsets = [msg.subject.rpartition(".")[2] for msg in served.heard if not msg.subject.endswith(".end")]
    assert sorted(int(offset) // kept.chunk for offset in offsets) == sorted(lost)


async def test_the_last_chunks_are_asked_for_besides_if_a_connection_keeps_them(exchange: Exchange) -> None:
    a, b, relay = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(16 * CHUNK)
    held = a.keep("delta", "1", data)
    served = await exchange.watch("tensor.j.a.to.b.*.*.*")
    kept = Kept("delta", "1", data)
    late = {kept.count - 2, kept.count - 1}
    for index in set(range(kept.count)) - late:
        await relay.publish(f"tensor.j.a.delta.1.0.{index * kept.chunk}", frame_of(kept, index))
    await relay.flush()
    assert await b._lanes.lanes[0].barrier(PATIENCE)  # so that they are here, and the rest is thought to be under way
    assert await fetched(b, "a", held, timeout=LOST_AFTER) == data
    await served.until(lambda: any(msg.subject.endswith(".end") for msg in served.heard))
    offsets = [msg.subject.rpartition(".")[2] for msg in served.heard if not msg.subject.endswith(".end")]
    assert sorted(int(offset) // kept.chunk for offset in offsets) == sorted(late)


async def test_the_last_chunks_may_take_their_time_however_they_trickle_in(exchange: Exchange) -> None:
    a = await exchange.join("a")
    incoming = Incoming(16 * CHUNK, b"content.")
    fetch = Fetch(a._lanes, a._inbox, "j", "a", ("b", "delta", "1"), PATIENCE)
    for index in range(56):
        incoming.take(index, memoryview(bytes(incoming.chunk)), 0, 100.0 + index / 100)
    due = fetch._tail_due(incoming)
    for index in range(56, 60):
        incoming.take(index, memoryview(bytes(incoming.chunk)), 0, 100.0 + index / 100)
        assert fetch._tail_due(incoming) == due


async def test_a_damaged_chunk_is_found_by_its_check_and_asked_for_again(exchange: Exchange) -> None:
    a, b, relay = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(20 * CHUNK)
    held = a.keep("delta", "1", data)
    served = await exchange.watch("tensor.j.a.to.b.*.*.*")
    kept = Kept("delta", "1", data)
    for index in range(kept.count):
        frame = bytearray(frame_of(kept, index))
        if index == 13:
            frame[5000] ^= 1
        await relay.publish(f"tensor.j.a.delta.1.0.{index * kept.chunk}", bytes(frame))
    await relay.publish("tensor.j.a.delta.1.0.end", b"1")
    await relay.flush()  # or the holder says sooner that it streams nothing
    assert await fetched(b, "a", held) == data
    await served.until(lambda: any(msg.subject.endswith(".end") for msg in served.heard))
    assert [msg.subject.rpartition(".")[2] for msg in served.heard] == [str(13 * kept.chunk), "end"]


async def test_other_data_under_the_same_name_is_not_believed(exchange: Exchange) -> None:
    """Chunks with sound checks whose whole has another hash: all is fetched anew."""
    a, b, liar = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(6 * CHUNK)
    held = a.keep("delta", "1", data)
    forged = Kept("delta", "1", data[:-1] + b"?")
    forged._content = bytes.fromhex(held.digest[:16])
    for index in range(forged.count):
        await liar.publish(f"tensor.j.a.delta.1.0.{index * forged.chunk}", frame_of(forged, index))
    await liar.publish("tensor.j.a.delta.1.0.end", b"1")
    await settled(liar)
    assert await fetched(b, "a", held) == data


async def test_bytes_that_are_no_chunks_are_counted_and_stop_nothing(exchange: Exchange) -> None:
    a, b, outsider = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(3 * CHUNK)
    held = a.keep("delta", "1", data)
    kept = Kept("delta", "1", data)
    for subject, payload in (
        ("tensor.j.a.delta.1.0.0", b""),
        ("tensor.j.a.delta.1.0.0", b"not a chunk" * 100),
        ("tensor.j.a.delta.1.0.1", frame_of(kept, 0)),
        ("tensor.j.a.delta.1.0.0", frame_of(kept, 0)[:-1]),
        (f"tensor.j.a.delta.1.0.{CHUNK * 99}", frame_of(kept, 1)),
        ("tensor.j.a.delta.1.0.minus", frame_of(kept, 1)),
        ("tensor.j.a.delta.1.0.end", b"\xff"),
        ("tensor.j.a.ack.delta.1.b", b"\xff"),
        ("tensor.j.a.nobody.delta.1", b"503"),
        ("tensor.j.b.leave.a", b"{}"),
        ("tensor.j.b.leave.a", b"\xff"),
        ("tensor.j.a.to.b.sometoken.0.0", frame_of(kept, 0)),
    ):
        await outsider.publish(subject, payload)
    answer = await outsider.request("tensor.j.a.fetch.b", b"\xff", timeout=PATIENCE)
    assert msgspec.json.decode(answer.data)["found"] is False
    bad = b'{"op": "get", "kind": "delta", "name": "1", "to": "b.c", "token": "x", "chunks": [[0, 1]]}'
    answer = await outsider.request("tensor.j.a.fetch.b", bad, timeout=PATIENCE)
    assert msgspec.json.decode(answer.data)["found"] is False
    anothers = bad.replace(b"b.c", b"b")
    answer = await outsider.request("tensor.j.a.fetch.c", anothers, timeout=PATIENCE)
    assert "another's name" in msgspec.json.decode(answer.data)["reason"]
    assert await a.stream("delta", "1")
    assert await fetched(b, "a", held) == data
    assert b.rejected >= 6


async def test_a_holder_killed_in_the_midst_is_told_and_another_helps(exchange: Exchange) -> None:
    b, c = await exchange.join("b"), await exchange.join("c")
    data = bytes(64 * 1024 * 1024)
    chunks = await exchange.watch("tensor.j.victim.to.b.*.*.*")
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, exchange.server.url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert victim.stdout is not None
        digest = (await victim.stdout.readline()).decode().strip()
        fetching = asyncio.ensure_future(b.fetch("victim", "delta", "1", len(data), digest, 3600.0))
        await chunks.until(lambda: len(chunks.heard) > 3)
        victim.send_signal(signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(TensorUnavailable, match="victim is gone"):
                await fetching
    finally:
        with suppress(ProcessLookupError):
            victim.kill()
        await victim.wait()
    held = c.keep("delta", "1", data)
    assert held.digest == digest
    assert await fetched(b, "c", held) == data


async def test_a_server_killed_in_the_midst_costs_a_pause(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b")
    await b.follow("delta")
    data = some_bytes(4 * WINDOW)
    held = a.keep("delta", "1", data)
    chunks = await exchange.watch("tensor.j.a.to.b.*.*.*")
    fetching = asyncio.ensure_future(fetched(b, "a", held, timeout=2 * PATIENCE))
    await chunks.until(lambda: len(chunks.heard) > 3)
    assert exchange.server.pid is not None
    os.kill(exchange.server.pid, signal.SIGKILL)
    assert await fetching == data
    again = a.keep("delta", "2", data[:CHUNK])
    assert await a.stream("delta", "2")
    assert await fetched(b, "a", again) == data[:CHUNK]


async def test_a_stream_that_was_lost_with_its_server_is_fetched(exchange: Exchange) -> None:
    sender, follower = await exchange.join("a"), await exchange.join("b")
    await follower.follow("delta")
    held = sender.keep("delta", "1", some_bytes(CHUNK))
    assert exchange.server.pid is not None
    os.kill(exchange.server.pid, signal.SIGKILL)
    streaming = asyncio.create_task(sender.stream("delta", "1"))  # into a connection that is dead and doesn't know it
    data = await fetched(follower, "a", held, timeout=LOST_AFTER)  # without waiting for what will never come
    assert data == some_bytes(CHUNK)
    async with asyncio.timeout(LOST_AFTER):
        await streaming


async def test_a_question_that_the_holder_was_not_there_to_hear_is_asked_again(exchange: Exchange) -> None:
    b, holder = await exchange.join("b"), await exchange.outsider()
    kept = Kept("delta", "1", some_bytes(1000))
    described = msgspec.json.encode({"found": True, "digest": kept.held.digest, "size": 1000})
    asked: asyncio.Queue[Any] = asyncio.Queue()

    async def send(msg: Any) -> None:
        ask = msgspec.json.decode(msg.data)
        if ask["op"] == "get":
            await holder.publish(f"tensor.j.a.to.b.{ask['token']}.0.0", b"".join(kept.frame(0)))
        await msg.respond(described)

    before = await holder.subscribe("tensor.j.a.fetch.*", cb=asked.put)
    await settled(holder)
    async with asyncio.TaskGroup() as together:  # a fetch that fails ends all the waiting
        fetching = together.create_task(fetched(b, "a", kept.held, timeout=LOST_AFTER))
        question = await asked.get()
        await before.unsubscribe()
        await settled(holder)
        await question.respond(described)
        await asyncio.wait({fetching}, timeout=ONE_QUESTION)
        assert not fetching.done()
        await holder.subscribe("tensor.j.a.fetch.*", cb=send)
        assert await fetching == some_bytes(1000)


async def test_a_fetch_that_takes_too_long_says_how_much_is_missing(exchange: Exchange) -> None:
    b, mute = await exchange.join("b", stall=3600.0), await exchange.outsider()

    async def promise(msg: Any) -> None:
        await msg.respond(msgspec.json.encode({"found": True, "digest": "00" * 32, "size": 1000}))

    await mute.subscribe("tensor.j.mute.fetch.*", cb=promise)
    await settled(mute)
    with pytest.raises(TensorUnavailable, match=r"within 0\.3 s.*missing"):
        await b.fetch("mute", "delta", "1", 1000, "00" * 32, 0.3)


@pytest.mark.parametrize("nonsense", [b"", b"\xff", b"[1]", b'{"found": "maybe"}'])
async def test_a_holder_that_answers_nonsense_is_told_from_one_that_has_it(exchange: Exchange, nonsense: bytes) -> None:
    b, holder = await exchange.join("b"), await exchange.outsider()

    async def answer(msg: Any) -> None:
        await msg.respond(nonsense)

    await holder.subscribe("tensor.j.holder.fetch.*", cb=answer)
    await settled(holder)
    with pytest.raises(TensorUnavailable, match="answers nonsense"):
        await b.fetch("holder", "delta", "1", 1000, "00" * 32, PATIENCE)


async def test_a_holder_that_promises_and_sends_nothing_is_given_up(exchange: Exchange) -> None:
    b, mute = await exchange.join("b", stall=0.1), await exchange.outsider()

    async def promise(msg: Any) -> None:
        await msg.respond(msgspec.json.encode({"found": True, "digest": "00" * 32, "size": 1000}))

    await mute.subscribe("tensor.j.mute.fetch.*", cb=promise)
    await settled(mute)
    with pytest.raises(TensorUnavailable, match="stalled"):
        await b.fetch("mute", "delta", "1", 1000, "00" * 32, 3600.0)


async def test_a_follower_that_holds_up_the_others_is_asked_to_leave(exchange: Exchange) -> None:
    """An outsider plays a follower that acknowledges the first chunk and then no more."""
    a, b, slow = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("average")
    words = await exchange.watch("tensor.j.slow.leave.*")
    ack = msgspec.json.encode({"follower": "slow", "position": CHUNK})

    async def first_only(msg: Any) -> None:
        if msg.subject.endswith(".0"):
            await slow.publish("tensor.j.a.ack.average.1-1.slow", ack)

    await slow.subscribe("tensor.j.a.average.>", cb=first_only)
    await settled(slow)
    data = some_bytes(2 * WINDOW)
    held = a.keep("average", "1-1", data)
    async with asyncio.timeout(PATIENCE):
        assert await a.stream("average", "1-1")
    assert await fetched(b, "a", held) == data
    await words.until(lambda: len(words.heard) == 2)
    told = [msgspec.json.decode(msg.data, type=Leave) for msg in words.heard]
    assert [word.done for word in told] == [False, True]


async def test_who_is_asked_to_leave_fetches_the_rest_and_comes_back(exchange: Exchange) -> None:
    a, b, outsider = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(4 * CHUNK)
    held = a.keep("delta", "1", data)
    kept = Kept("delta", "1", data)
    await outsider.publish("tensor.j.a.delta.1.0.0", frame_of(kept, 0))
    word = Leave(kind="delta", name="1", sender="a")
    await outsider.publish("tensor.j.b.leave.a", msgspec.json.encode(word))
    await settled(outsider)
    assert await fetched(b, "a", held) == data
    assert not await a.stream("delta", "1")
    word.done = True
    await outsider.publish("tensor.j.b.leave.a", msgspec.json.encode(word))
    async with asyncio.timeout(PATIENCE):
        while not await a.stream("delta", "1"):
            await settled(outsider)

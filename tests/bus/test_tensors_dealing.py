"""How chunks are dealt out to a receiver's connections: evenly, and none to nobody while connections come and go."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import tensor_lane
from bus.server import EmbeddedServer
from bus.tensor_frames import CHUNK, SHARES, SLOTS, Kept, slot_of
from bus.tensor_lane import Lane
from bus.tensor_lanes import Listening
from tests.bus.tensor_exchange import Exchange, fetched, frame_of, some_bytes


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    """A server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as server:
        made = Exchange(server)
        yield made
        await made.close()


lanes = st.lists(st.builds(Lane, st.just("nats://127.0.0.1:1"), st.just("x"), st.none()), min_size=1, max_size=SLOTS)


def hearing(lane: Lane, slot: int) -> int:
    """How often a lane, which need not be connected, would hear what comes in a slot."""
    return sum(pattern in ("t.*.x", f"t.{slot}.x") for pattern, _ in lane._patterns.values())


def heard(of: list[Lane]) -> list[int]:
    return [sum(hearing(lane, slot) for lane in of) for slot in range(SLOTS)]


@given(before=lanes, kept=st.integers(0, SLOTS), added=lanes)
def test_every_slot_is_heard_once_and_never_by_nobody(before: list[Lane], kept: int, added: list[Lane]) -> None:
    listening = Listening("t.#.x", lambda *_: None)
    listening.deal(before)
    assert heard(before) == [1] * SLOTS
    after = [*before[:kept], *added][:SLOTS]
    listening.deal(after)
    assert min(heard(after)) >= 1, "those that come hear it before those that go hear it no more"
    listening.tidy(after)
    assert heard(after) == [1] * SLOTS
    assert not any(lane._patterns for lane in before if lane not in after)
    shares = Counter(sum(hearing(lane, slot) for slot in range(SLOTS)) for lane in after)
    assert max(shares) - min(shares) <= 1
    listening.tidy(())
    assert sum(heard(after)) == 0


def test_neighbouring_chunks_have_all_slots_in_turn() -> None:
    assert {slot_of(index) for index in range(SHARES)} == set(range(SLOTS))


async def test_what_one_connection_did_not_bring_is_dealt_out_to_all(exchange: Exchange) -> None:
    a, b, relay = await exchange.join("a"), await exchange.join("b"), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(16 * CHUNK)
    held = a.keep("delta", "1", data)
    served = await exchange.watch("tensor.j.a.to.b.*.*.*")
    kept = Kept("delta", "1", data)
    lost = set(range(3, kept.count, 8))  # the share of one of eight connections
    for index in set(range(kept.count)) - lost:
        await relay.publish(f"tensor.j.a.delta.1.0.{index * kept.chunk}", frame_of(kept, index))
    await relay.publish("tensor.j.a.delta.1.0.end", b"1")
    await relay.flush()
    assert await fetched(b, "a", held) == data
    await served.until(lambda: any(msg.subject.endswith(".end") for msg in served.heard))
    slots = [int(msg.subject.split(".")[6]) for msg in served.heard if not msg.subject.endswith(".end")]
    assert {slot % 8 for slot in slots} == set(range(8))


async def test_more_connections_than_slots_are_not_made_and_bring_all_chunks(exchange: Exchange) -> None:
    a, b = await exchange.join("a", streams=2), await exchange.join("b")
    await b.follow("delta")
    await b.set_streams(2 * SLOTS)
    assert b.streams == SLOTS
    held = a.keep("delta", "1", some_bytes(8 * CHUNK))
    streaming = asyncio.create_task(a.stream("delta", "1"))
    assert await fetched(b, "a", held) == some_bytes(8 * CHUNK)
    assert await streaming
    await b.set_streams(3)
    held = a.keep("delta", "2", some_bytes(CHUNK))
    assert await a.stream("delta", "2")
    assert await fetched(b, "a", held) == some_bytes(CHUNK)


@pytest.mark.parametrize(("allowed", "made"), [(True, 8), (False, SLOTS)])
async def test_connections_that_losses_do_not_throttle_are_fewer(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, allowed: bool, made: int
) -> None:
    monkeypatch.setattr(tensor_lane, "is_loopback", lambda _: False)
    monkeypatch.setattr(tensor_lane, "ask_for_bbr", lambda _: allowed)
    assert (await exchange.join("a", streams=SLOTS)).streams == made

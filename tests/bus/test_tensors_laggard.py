"""A connection that is far behind the others: found out, gone round, and replaced without a chunk lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensor_exchange import PATIENCE, Exchange, fetched, frame_of, some_bytes

from bus.server import EmbeddedServer
from bus.tensor_frames import CHUNK, SLOTS, Kept
from bus.tensor_laggard import laggard, slots_without


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    """A server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as server:
        made = Exchange(server)
        yield made
        await made.close()


@pytest.mark.parametrize(
    ("missing", "lanes", "expected"),
    [
        (range(3, 64, 8), 8, 3),  # all of one's share
        ([3, 11, 19, 27], 8, 3),  # half of it
        ([3, 11, 19], 8, None),  # it is nearly there
        ([3, 11, 19, 27, 4], 8, 3),
        ([3, 11, 19, 27, 4, 5], 8, None),  # others lack some, too
        ([], 8, None),
        ([5, 37], 32, None),  # its whole share, but of two chunks
        (range(1, 64, 2), 2, None),  # too few to compare
        (range(40, 64), 8, None),  # the sender is no further
    ],
)
def test_one_is_far_behind_when_the_others_have_brought_theirs(
    missing: list[int], lanes: int, expected: int | None
) -> None:
    assert laggard(list(missing), 64, lanes) == expected


@given(st.integers(1, SLOTS), st.data())
def test_what_is_to_come_without_it_comes_by_all_others(lanes: int, data: st.DataObject) -> None:
    assert slots_without(None, lanes) == list(range(SLOTS))
    lane = data.draw(st.integers(0, lanes - 1))
    slots = slots_without(lane, lanes)
    assert {slot % lanes for slot in slots} == set(range(lanes)) - {lane}


async def test_the_share_of_one_that_is_far_behind_comes_by_the_others_and_it_is_replaced(exchange: Exchange) -> None:
    a, b, relay = await exchange.join("a"), await exchange.join("b", streams=4), await exchange.outsider()
    await b.follow("delta")
    data = some_bytes(16 * CHUNK)
    held = a.keep("delta", "1", data)
    served = await exchange.watch("tensor.j.a.to.b.*.*.*")
    kept, before = Kept("delta", "1", data), list(b._lanes.lanes)
    kept_back = set(range(2, kept.count, 4))
    for index in set(range(kept.count)) - kept_back:
        await relay.publish(f"tensor.j.a.delta.1.{index % SLOTS}.{index * kept.chunk}", frame_of(kept, index))
    await relay.flush()
    assert all([await lane.barrier(PATIENCE) for lane in before])
    assert await fetched(b, "a", held) == data
    await served.until(lambda: any(msg.subject.endswith(".end") for msg in served.heard))
    slots = [int(msg.subject.split(".")[6]) for msg in served.heard if not msg.subject.endswith(".end")]
    assert {slot % 4 for slot in slots} == {0, 1, 3}
    if b._lanes._renewing is not None:  # begun before the chunks were asked for, and over by now perhaps
        await b._lanes._renewing
    after = b._lanes.lanes
    assert [lane in before for lane in after] == [True, True, False, True]
    assert not before[2].up


async def test_what_travels_while_a_connection_is_replaced_arrives(exchange: Exchange) -> None:
    a, b = await exchange.join("a"), await exchange.join("b", streams=4)
    await b.follow("delta")
    held = [a.keep("delta", str(number), some_bytes(8 * CHUNK, seed=number)) for number in range(8)]

    async def stream() -> None:
        for one in held:
            await a.stream("delta", one.name)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(stream())
        for number in range(4):
            b._lanes.renew_soon(number)
            b._lanes.renew_soon(number)  # one at a time
            assert b._lanes._renewing is not None
            await b._lanes._renewing
    assert b.streams == 4
    for number, one in enumerate(held):
        assert await fetched(b, "a", one) == some_bytes(8 * CHUNK, seed=number)


async def test_a_connection_stays_where_no_other_can_be_made(exchange: Exchange) -> None:
    b = await exchange.join("b", streams=4)
    before = list(b._lanes.lanes)
    b._lanes._url = "nats://127.0.0.1:1"
    b._lanes.renew_soon(1)
    assert b._lanes._renewing is not None
    await asyncio.wait([b._lanes._renewing])
    assert b._lanes.lanes == before
    assert all(lane.up for lane in before)
    b._lanes.renew_soon(7)
    assert b._lanes._renewing is None

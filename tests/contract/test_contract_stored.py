"""Stored messages: positions that outlive their holders, effects done twice, one writer of several, history, objects."""

import asyncio

import pytest
from carriers import Carrier, Collector, heartbeat, leaving, quality

from bus.port import Bus, BusError, Interest, Start, SubjectTaken
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeLeaving
from schemas.wire import Message

BOTH = [Interest(NodeLeaving), Interest(LinkQualityChanged)]


async def everything(bus: Bus, *kinds: type[Message]) -> list[Message]:
    """What `history` gives for these types."""
    return [message async for message in bus.history([Interest(kind) for kind in kinds])]


async def test_a_durable_goes_on_where_it_stopped(carrier: Carrier) -> None:
    speaker, first_life = await carrier.open("speaker"), await carrier.open("agent")
    before, after = Collector(), Collector()
    await speaker.publish(leaving(1))
    await first_life.subscribe(BOTH, before, durable="agent", start=Start.ALL)
    await speaker.publish(leaving(2))
    await speaker.publish(quality(3))
    await carrier.wait(before.has(3))
    await carrier.settle()
    await first_life.close()
    for number in (4, 5):
        await speaker.publish(leaving(number))
    await speaker.publish(quality(6))
    second_life = await carrier.open("agent")
    await second_life.subscribe(BOTH, after, durable="agent", start=Start.NEW)
    await speaker.publish(leaving(7))
    await carrier.wait(after.has(4))
    assert [message.at for message in after.messages if isinstance(message, NodeLeaving)] == [4, 5, 7]
    assert [message.at for message in after.messages if isinstance(message, LinkQualityChanged)] == [6]


async def test_what_a_durable_did_not_acknowledge_comes_first_and_in_order(carrier: Carrier) -> None:
    bus, first, second = await carrier.open("agent"), Collector(ack=False), Collector()
    subscription = await bus.subscribe([Interest(NodeLeaving)], first, durable="agent")
    for number in (1, 2, 3):
        await bus.publish(leaving(number))
    await carrier.wait(first.has(3))
    assert first.receipts[0] is not None
    first.receipts[0].ack()
    await carrier.settle()
    await subscription.stop()
    await bus.publish(leaving(4))
    await bus.subscribe([Interest(NodeLeaving)], second, durable="agent")
    await carrier.wait(second.has(3))
    assert [message.at for message in second.messages][:3] == [2, 3, 4]


async def test_a_durable_may_change_what_it_is_interested_in(carrier: Carrier) -> None:
    bus, first, second = await carrier.open("agent"), Collector(), Collector()
    subscription = await bus.subscribe([Interest(NodeLeaving, {"node": "a"})], first, durable="agent")
    await bus.publish(leaving(1, "a"))
    await carrier.wait(first.has(1))
    await carrier.settle()
    await subscription.stop()
    await bus.publish(leaving(2, "a"))
    await bus.subscribe([Interest(NodeLeaving)], second, durable="agent")
    await bus.publish(leaving(3, "b"))
    await carrier.wait(second.has(2))
    assert [message.at for message in second.messages] == [2, 3]


async def test_an_effect_done_twice_is_stored_once(carrier: Carrier) -> None:
    one, other = await carrier.open("one"), await carrier.open("other")
    await one.publish(leaving(1), dedup="one:cause:0")
    await other.publish(leaving(2), dedup="one:cause:0")
    await one.publish(leaving(3), dedup="one:cause:1")
    await one.publish(quality(4), dedup="one:cause:2")
    await one.publish(quality(5), dedup="one:cause:2")
    stored = await everything(one, NodeLeaving, LinkQualityChanged)
    assert [message.at for message in stored] == [1, 3, 4]


async def test_of_many_first_publishers_one_wins(carrier: Carrier) -> None:
    buses = [await carrier.open(f"writer{index}") for index in range(3)]
    attempts = [buses[number % 3].publish(leaving(number), dedup=f"d{number}", first=True) for number in range(12)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, SubjectTaken) for outcome in outcomes) == 11
    winner = outcomes.index(None)
    assert [message.at for message in await everything(buses[0], NodeLeaving)] == [winner]
    await buses[2].publish(leaving(winner), dedup=f"d{winner}", first=True)  # the winner's effect, done again
    with pytest.raises(SubjectTaken):
        await buses[winner % 3].publish(leaving(99), dedup="late", first=True)
    await buses[0].publish(leaving(100, "b"), dedup="elsewhere", first=True)
    assert [message.at for message in await everything(buses[0], NodeLeaving)] == [winner, 100]


async def test_first_needs_a_stored_message(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    with pytest.raises(BusError):
        await bus.publish(heartbeat(1), first=True)


async def test_history_is_what_is_stored_now_and_ends(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    assert await everything(bus, NodeLeaving, LinkQualityChanged, NodeHeartbeat) == []
    for number in range(700):
        await bus.publish(leaving(number, node=f"n{number % 3}"))
    for number in range(5):
        await bus.publish(quality(number, node=f"n{number % 2}"))
    found = await everything(bus, LinkQualityChanged, NodeLeaving)
    assert [message.at for message in found] == [*range(700), 3, 4]
    narrowed = [m async for m in bus.history([Interest(NodeLeaving, {"node": "n1"})])]
    assert [message.at for message in narrowed] == list(range(1, 700, 3))


async def test_history_may_be_left_early(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    for number in range(20):
        await bus.publish(leaving(number))
    messages = bus.history([Interest(NodeLeaving)])
    assert (await anext(messages)).at == 0
    await messages.aclose()  # type: ignore[attr-defined]
    assert len(await everything(bus, NodeLeaving)) == 20


async def test_purging_removes_what_matches_and_nothing_else(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    for number, node in enumerate(("a", "b", "a")):
        await bus.publish(leaving(number, node))
        await bus.publish(quality(number, node))
    await bus.purge("shoal.*.a.>")
    assert [message.at for message in await everything(bus, NodeLeaving, LinkQualityChanged)] == [1, 1]
    await bus.publish(leaving(9, "a"), dedup="after", first=True)
    assert len(await everything(bus, NodeLeaving)) == 2


async def test_objects_are_kept_replaced_and_missed(carrier: Carrier) -> None:
    writer, reader = await carrier.open("writer"), await carrier.open("reader")
    with pytest.raises(KeyError):
        await reader.get_object("j1/model.safetensors")
    large = bytes(range(256)) * 12_001  # about 3 MiB, no multiple of any chunk
    await writer.put_object("j1/model.safetensors", large)
    await writer.put_object("j2/model.safetensors", b"")
    assert await reader.get_object("j1/model.safetensors") == large
    assert await reader.get_object("j2/model.safetensors") == b""
    await writer.put_object("j1/model.safetensors", b"smaller")
    assert await reader.get_object("j1/model.safetensors") == b"smaller"


async def test_closing_finishes_what_is_under_way(carrier: Carrier) -> None:
    leaver, stayer = await carrier.open("leaver"), await carrier.open("stayer")
    under_way = [asyncio.ensure_future(leaver.publish(leaving(number))) for number in range(100)]
    await asyncio.wait(under_way, timeout=0)
    await leaver.close()
    await asyncio.gather(*under_way)
    assert len(await everything(stayer, NodeLeaving)) == 100

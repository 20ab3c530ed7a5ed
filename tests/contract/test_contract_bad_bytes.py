"""Bytes that are not the message their subject promises: dropped, counted, reported; nothing stops."""

from carriers import Carrier, Collector, heartbeat, leaving

from bus.port import Interest, Start
from schemas.bus import MessageRejected
from schemas.nodes import NodeHeartbeat, NodeLeaving
from schemas.wire import encode


async def test_bad_bytes_are_dropped_and_reported_with_the_field_at_fault(carrier: Carrier) -> None:
    bus, watcher = await carrier.open("agent"), await carrier.open("watcher")
    got, reported = Collector(), Collector()
    await watcher.subscribe([Interest(MessageRejected)], reported)
    await bus.subscribe([Interest(NodeLeaving), Interest(NodeHeartbeat)], got)
    await carrier.inject("shoal.nodes.a.leaving", b"\xff not json")
    await carrier.wait(reported.has(1))
    await carrier.inject("shoal.nodes.a.heartbeat", b'{"node": "a", "sequence": "three", "interval": 1}')
    await carrier.wait(reported.has(2))
    await bus.publish(leaving(1))
    await bus.publish(heartbeat(2))
    await carrier.wait(got.has(2))
    assert sorted(got.ids) == ["tester:1:1", "tester:1:2"]
    first, second = reported.messages
    assert (first.subject, first.field, first.size, first.count) == ("shoal.nodes.a.leaving", "$", 10, 1)
    assert (second.subject, second.field, second.count) == ("shoal.nodes.a.heartbeat", "$.sequence", 2)
    assert first.source == second.source == "agent"
    assert first.id != second.id
    assert second.reason


async def test_a_stored_message_that_does_not_decode_does_not_come_again(carrier: Carrier) -> None:
    bus, got, reported = await carrier.open("agent"), Collector(), Collector()
    await bus.subscribe([Interest(MessageRejected)], reported)
    await carrier.inject("shoal.nodes.a.leaving", b"{}")
    subscription = await bus.subscribe([Interest(NodeLeaving)], got, durable="agent", start=Start.ALL)
    await carrier.wait(reported.has(1))
    await carrier.settle()
    await subscription.stop()
    await bus.subscribe([Interest(NodeLeaving)], got, durable="agent", start=Start.ALL)
    await bus.publish(leaving(1))
    await carrier.wait(got.has(1))
    await carrier.settle()
    assert reported.messages[-1].count == 1


async def test_a_flood_of_bad_bytes_is_not_echoed(carrier: Carrier) -> None:
    bus, got, reported = await carrier.open("agent"), Collector(), Collector()
    await bus.subscribe([Interest(MessageRejected)], reported)
    await bus.subscribe([Interest(NodeHeartbeat)], got)
    for _ in range(300):
        await carrier.inject("shoal.nodes.a.heartbeat", b"[]")
    await bus.publish(heartbeat(1))
    await carrier.wait(got.has(1))
    await carrier.settle()
    counts = [message.count for message in reported.messages]
    assert counts[:2] == [1, 2]
    assert 256 in counts
    assert len(counts) < 100


async def test_unknown_fields_of_events_are_ignored(carrier: Carrier) -> None:
    bus, got = await carrier.open("agent"), Collector()
    await bus.subscribe([Interest(NodeLeaving)], got)
    newer = encode(leaving(1))[:-1] + b',"from_a_later_version":{"x":[1]}}'
    await carrier.inject("shoal.nodes.a.leaving", newer)
    await carrier.wait(got.has(1))
    assert got.messages == [leaving(1)]


async def test_a_body_that_contradicts_its_subject_is_refused(carrier: Carrier) -> None:
    """Permissions hold a speaker to its own subjects; a body that speaks for another would go round them."""
    bus, got, reported = await carrier.open("agent"), Collector(), Collector()
    await bus.subscribe([Interest(MessageRejected)], reported)
    await bus.subscribe([Interest(NodeLeaving), Interest(NodeHeartbeat)], got)
    await carrier.inject("shoal.nodes.mallory.leaving", encode(leaving(1, "a")))
    await carrier.wait(reported.has(1))
    await carrier.inject("shoal.nodes.mallory.heartbeat", encode(heartbeat(2, "a")))
    await carrier.wait(reported.has(2))
    assert got.messages == []
    assert [message.field for message in reported.messages] == ["$.node", "$.node"]

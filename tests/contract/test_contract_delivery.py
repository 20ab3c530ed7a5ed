"""The three delivery classes: who gets what, in which order, and how often."""

import asyncio

from carriers import Carrier, Collector, heartbeat, leaving, quality

from bus.port import Interest, Start
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeLeaving


async def test_telemetry_arrives_as_it_was_sent_and_in_order(carrier: Carrier) -> None:
    speaker, listener, got = await carrier.open("speaker"), await carrier.open("listener"), Collector()
    await listener.subscribe([Interest(NodeHeartbeat)], got)
    sent = [heartbeat(number) for number in range(500)]
    for message in sent:
        await speaker.publish(message)
    await carrier.wait(got.has(500))
    assert got.messages == sent
    assert set(got.receipts) == {None}


async def test_a_participant_hears_itself(carrier: Carrier) -> None:
    bus, got = await carrier.open("alone"), Collector()
    await bus.subscribe([Interest(NodeHeartbeat), Interest(NodeLeaving)], got)
    await bus.publish(heartbeat(1))
    await bus.publish(leaving(2))
    await carrier.wait(got.has(2))
    assert sorted(got.ids) == ["tester:1:1", "tester:1:2"]


async def test_interests_narrow_to_what_they_hold_fixed(carrier: Carrier) -> None:
    bus, got = await carrier.open("one"), Collector()
    await bus.subscribe(
        [Interest(NodeHeartbeat, {"node": "a"}), Interest(NodeLeaving, {"node": "b"}), Interest(LinkQualityChanged)], got
    )
    for number, node in enumerate(("a", "b", "c")):
        await bus.publish(heartbeat(10 + number, node))
        await bus.publish(leaving(20 + number, node))
        await bus.publish(quality(30 + number, node))
    await carrier.wait(got.has(5))
    await carrier.settle()
    assert sorted(message.at for message in got.messages) == [10, 21, 30, 31, 32]


async def test_telemetry_is_not_kept_and_stopping_ends_it(carrier: Carrier) -> None:
    bus, got = await carrier.open("one"), Collector()
    await bus.publish(heartbeat(1))
    subscription = await bus.subscribe([Interest(NodeHeartbeat)], got)
    await bus.publish(heartbeat(2))
    await carrier.wait(got.has(1))
    await subscription.stop()
    await bus.publish(heartbeat(3))
    await carrier.settle()
    assert [message.sequence for message in got.messages] == [2]


async def test_records_begin_where_the_subscriber_asks(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    for number in (1, 2, 3):
        await bus.publish(leaving(number, "a"))
    await bus.publish(leaving(4, "b"))
    got = {start: Collector() for start in Start}
    for start, collector in got.items():
        await bus.subscribe([Interest(NodeLeaving)], collector, start=start)
    await bus.publish(leaving(5, "a"))
    for start, expected in ((Start.ALL, [1, 2, 3, 4, 5]), (Start.LAST, [3, 4, 5]), (Start.NEW, [5])):
        await carrier.wait(got[start].has(len(expected)))
        assert [message.at for message in got[start].messages] == expected, start
    assert [receipt.sequence for receipt in got[Start.ALL].receipts if receipt] == [1, 2, 3, 4, 5]


async def test_who_starts_late_knows_the_present(carrier: Carrier) -> None:
    bus, got = await carrier.open("one"), Collector()
    for number in (1, 2, 3):
        await bus.publish(quality(number, "a"))
    await bus.publish(quality(4, "b"))
    await bus.subscribe([Interest(LinkQualityChanged)], got)
    await carrier.wait(got.has(2))
    await bus.publish(quality(5, "a"))
    await carrier.wait(got.has(3))
    await carrier.settle()
    assert [(message.node, message.version) for message in got.messages] == [("a", 3), ("b", 4), ("a", 5)]


async def test_every_subscriber_gets_every_message(carrier: Carrier) -> None:
    speaker = await carrier.open("speaker")
    collectors = [Collector() for _ in range(3)]
    for index, collector in enumerate(collectors):
        bus = await carrier.open(f"listener{index}")
        await bus.subscribe([Interest(NodeLeaving), Interest(NodeHeartbeat)], collector)
    await speaker.publish(leaving(1))
    await speaker.publish(heartbeat(2))
    for collector in collectors:
        await carrier.wait(collector.has(2))
        assert sorted(collector.ids) == ["tester:1:1", "tester:1:2"]


async def test_records_keep_their_order_through_a_long_backlog(carrier: Carrier) -> None:
    """More than any window of a carrier holds, published at once, read from the first to the last."""
    bus, late = await carrier.open("one"), Collector()
    await asyncio.gather(*(bus.publish(leaving(number)) for number in range(1200)))
    await bus.subscribe([Interest(NodeLeaving)], late, start=Start.ALL)
    await carrier.wait(late.has(1200))
    assert [message.at for message in late.messages] == list(range(1200))


async def test_one_callers_publishes_keep_their_order(carrier: Carrier) -> None:
    bus, got = await carrier.open("one"), Collector()
    await bus.subscribe([Interest(NodeLeaving)], got)
    for number in range(50):
        await bus.publish(leaving(number, node=f"n{number % 7}"))
    await carrier.wait(got.has(50))
    assert [message.at for message in got.messages] == list(range(50))


async def test_unacknowledged_records_come_again_until_they_are(carrier: Carrier) -> None:
    bus, got = await carrier.open("one"), Collector(ack=False)
    await bus.subscribe([Interest(NodeLeaving), Interest(LinkQualityChanged)], got)
    await bus.publish(leaving(1))
    await bus.publish(quality(2))
    await carrier.wait(lambda: sorted(set(got.ids)) == ["tester:1:1", "tester:1:2"] and len(got.messages) >= 6)
    first, again = {}, {}
    for message, receipt in zip(got.messages, got.receipts, strict=True):
        assert receipt is not None
        (again if message.id in first else first).setdefault(message.id, receipt)
    assert all(not receipt.redelivered for receipt in first.values())
    assert all(receipt.redelivered for receipt in again.values())
    got.acks = True
    acknowledged = len(got.messages)
    await carrier.wait(got.has(acknowledged + 2))
    await bus.publish(leaving(3))
    await carrier.wait(lambda: "tester:1:3" in got.ids)
    mark = len(got.messages)
    other = Collector(ack=False)
    await bus.subscribe([Interest(NodeLeaving)], other, start=Start.ALL)
    await carrier.wait(other.has(3 * 4))  # three redeliveries' time went by
    assert len(got.messages) <= mark + 1  # an acknowledgement may have crossed one redelivery


async def test_acknowledgements_may_come_late_and_in_any_order(carrier: Carrier) -> None:
    bus, got = await carrier.open("one"), Collector(ack=False)
    subscription = await bus.subscribe([Interest(NodeLeaving)], got, durable="slow")
    for number in range(1, 6):
        await bus.publish(leaving(number))
    await carrier.wait(got.has(5))
    for receipt in reversed(got.receipts[:4]):
        assert receipt is not None
        receipt.ack()
    await carrier.settle()
    await subscription.stop()
    again = Collector()
    await bus.subscribe([Interest(NodeLeaving)], again, durable="slow")
    await carrier.wait(lambda: "tester:1:5" in again.ids)


async def test_a_handler_that_raises_stops_nothing_and_gets_the_record_again(carrier: Carrier) -> None:
    bus, got, raised = await carrier.open("one"), Collector(), []

    def fragile(message: object, receipt: object) -> None:
        if getattr(message, "id", "") in ("tester:1:2", "tester:1:4") and message not in raised:
            raised.append(message)
            raise ValueError("a handler's fault")
        got(message, receipt)  # type: ignore[arg-type]

    await bus.subscribe([Interest(NodeLeaving), Interest(NodeHeartbeat)], fragile)
    for number in (1, 2, 3):
        await bus.publish(leaving(number))
    await bus.publish(heartbeat(4))
    await bus.publish(heartbeat(5))
    await carrier.wait(got.has(4))
    assert len(raised) == 2
    assert set(got.ids) == {"tester:1:1", "tester:1:2", "tester:1:3", "tester:1:5"}

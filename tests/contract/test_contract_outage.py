"""The server dies, or goes away for a while: whoever was there goes on, and nothing that was stored is lost."""

import asyncio

import pytest
from carriers import Carrier, Collector, heartbeat, leaving, quality

from bus.port import Interest, Start, Unreachable
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeLeaving


async def test_subscriptions_of_all_kinds_go_on_after_the_server_was_killed(carrier: Carrier) -> None:
    speaker, listener = await carrier.open("speaker"), await carrier.open("listener")
    durable, ephemeral, latest, telemetry = Collector(), Collector(), Collector(), Collector()
    await listener.subscribe([Interest(NodeLeaving)], durable, durable="listener")
    await listener.subscribe([Interest(NodeLeaving)], ephemeral)
    await listener.subscribe([Interest(LinkQualityChanged)], latest)
    await listener.subscribe([Interest(NodeHeartbeat)], telemetry)

    async def answer(body: bytes) -> bytes:
        return body

    await listener.serve("shoal.jobs.list", answer)
    number = 0
    for _ in range(2):
        for _ in range(20):
            number += 1
            await speaker.publish(leaving(number))
        await speaker.publish(quality(number))
        await carrier.kill_server()
        for _ in range(20):
            number += 1
            await speaker.publish(leaving(number))
        await speaker.publish(quality(number))
    for collector in (durable, ephemeral):
        await carrier.wait(lambda collector=collector: len(set(collector.ids)) == number)
        fresh = list(dict.fromkeys(message.at for message in collector.messages))
        assert fresh == list(range(1, number + 1))
    await carrier.wait(lambda: number in [message.version for message in latest.messages])
    stored = [message.at async for message in speaker.history([Interest(NodeLeaving)])]
    assert stored == list(range(1, number + 1))
    assert await speaker.request("shoal.jobs.list", b"still there", 5.0) == b"still there"
    await speaker.publish(heartbeat(1))
    await carrier.wait(telemetry.has(1))


async def test_a_publish_waits_for_the_server_to_come_back(carrier: Carrier) -> None:
    bus, got = await carrier.open("one"), Collector()
    await bus.subscribe([Interest(NodeLeaving)], got)
    await carrier.stop_server()
    waiting = [asyncio.ensure_future(bus.publish(leaving(number), dedup=f"d{number}")) for number in range(20)]
    await bus.publish(heartbeat(1))  # lost or not, it holds up nobody
    await asyncio.wait(waiting, timeout=0)
    assert not any(publish.done() for publish in waiting)
    await carrier.start_server()
    await asyncio.gather(*waiting)
    await carrier.wait(lambda: len(set(got.ids)) == 20)
    stored = [message.at async for message in bus.history([Interest(NodeLeaving)])]
    assert stored == list(range(20))


async def test_a_publish_gives_up_in_the_end_and_says_so(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    await carrier.stop_server()
    with pytest.raises(Unreachable):
        await bus.publish(leaving(1))
    await carrier.start_server()
    await bus.publish(leaving(2))
    stored = [message.at async for message in bus.history([Interest(NodeLeaving)])]
    assert stored[-1] == 2


async def test_what_was_published_while_a_durable_was_cut_off_reaches_it(carrier: Carrier) -> None:
    speaker, agent = await carrier.open("speaker"), await carrier.open("agent")
    before, after = Collector(), Collector()
    await agent.subscribe([Interest(NodeLeaving)], before, durable="agent", start=Start.ALL)
    await speaker.publish(leaving(1))
    await carrier.wait(before.has(1))
    await carrier.settle()
    await agent.close()
    await speaker.publish(leaving(2))
    await carrier.kill_server()
    await speaker.publish(leaving(3))
    second_life = await carrier.open("agent")
    await second_life.subscribe([Interest(NodeLeaving)], after, durable="agent", start=Start.ALL)
    await carrier.wait(lambda: {"tester:1:2", "tester:1:3"} <= set(after.ids))


async def test_objects_survive_a_killed_server(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    await bus.put_object("j/model", b"weights" * 100_000)
    await carrier.kill_server()
    assert await bus.get_object("j/model") == b"weights" * 100_000

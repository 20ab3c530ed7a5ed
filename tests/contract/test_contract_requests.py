"""Questions and answers, and the measure of a link."""

import asyncio

import pytest
from carriers import Carrier

from bus.port import NoResponders, TimedOut

SUBJECT = "shoal.jobs.submit"


async def test_a_request_is_answered(carrier: Carrier) -> None:
    client, desk = await carrier.open("client"), await carrier.open("desk")

    async def answer(body: bytes) -> bytes:
        return b"got " + body

    await desk.serve(SUBJECT, answer)
    assert await client.request(SUBJECT, b"\xff\x00 anything", 5.0) == b"got \xff\x00 anything"
    assert await client.request(SUBJECT, b"", 5.0) == b"got "


async def test_with_nobody_there_a_client_is_told_so(carrier: Carrier) -> None:
    client, desk = await carrier.open("client"), await carrier.open("desk")
    with pytest.raises(NoResponders) as told:
        await client.request(SUBJECT, b"{}", 60.0)
    assert told.value.subject == SUBJECT

    async def answer(body: bytes) -> bytes:
        return body

    serving = await desk.serve(SUBJECT, answer)
    assert await client.request(SUBJECT, b"now", 5.0) == b"now"
    await serving.stop()
    with pytest.raises(NoResponders):
        await client.request(SUBJECT, b"{}", 60.0)


async def test_a_slow_answer_times_out_and_holds_up_nobody(carrier: Carrier) -> None:
    client, desk, let_go = await carrier.open("client"), await carrier.open("desk"), asyncio.Event()

    async def answer(body: bytes) -> bytes:
        if body == b"slow":
            await let_go.wait()
        return body

    await desk.serve(SUBJECT, answer)
    slow = asyncio.ensure_future(client.request(SUBJECT, b"slow", 60.0))
    assert await client.request(SUBJECT, b"quick", 5.0) == b"quick"
    with pytest.raises(TimedOut):
        await client.request(SUBJECT, b"slow", 0.1)
    let_go.set()
    assert await slow == b"slow"


async def test_one_of_several_servers_gets_each_request(carrier: Carrier) -> None:
    client, seen = await carrier.open("client"), []
    for name in ("desk1", "desk2"):
        desk = await carrier.open(name)

        async def answer(body: bytes, name: str = name) -> bytes:
            seen.append(body)
            return name.encode()

        await desk.serve(SUBJECT, answer)
    answers = await asyncio.gather(*(client.request(SUBJECT, str(n).encode(), 5.0) for n in range(64)))
    assert len(answers) == 64
    assert sorted(seen, key=int) == [str(n).encode() for n in range(64)]


async def test_a_responder_that_raises_goes_on_answering(carrier: Carrier) -> None:
    client, desk = await carrier.open("client"), await carrier.open("desk")

    async def answer(body: bytes) -> bytes:
        if body == b"bad":
            raise ValueError("a responder's fault")
        return body

    await desk.serve(SUBJECT, answer)
    with pytest.raises(TimedOut):
        await client.request(SUBJECT, b"bad", 0.2)
    assert await client.request(SUBJECT, b"good", 5.0) == b"good"


async def test_a_round_trip_takes_time(carrier: Carrier) -> None:
    bus = await carrier.open("one")
    measured = [await bus.round_trip(5.0) for _ in range(3)]
    assert all(seconds is not None and seconds >= 0 for seconds in measured)
    await carrier.stop_server()
    assert await bus.round_trip(0.05) is None
    await carrier.start_server()

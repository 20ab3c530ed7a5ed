"""Logs: bytes in order, with one writer at a time, whoever believes to be it."""

import asyncio

import pytest
from carriers import Carrier, Collector

from bus.port import Superseded


class Pages:
    """A follower that keeps what it gets, and wakes the carrier's `wait`."""

    def __init__(self) -> None:
        self.pages: list[tuple[int, bytes]] = []

    def __call__(self, sequence: int, data: bytes) -> None:
        self.pages.append((sequence, data))
        for watcher in Collector.watchers:
            watcher()

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.pages]


async def test_followers_get_what_was_there_and_what_comes_in_order(carrier: Carrier) -> None:
    writer, reader = (await carrier.open("writer")).log("desk"), (await carrier.open("reader")).log("desk")
    last = await writer.append(b"one", after=0, name="w1")
    last = await writer.append(b"two", after=last, name="w2")
    pages = Pages()
    following = await reader.follow(pages)
    last = await writer.append(b"three", after=last, name="w3")
    await carrier.wait(lambda: len(pages.pages) == 3)
    assert pages.data == [b"one", b"two", b"three"]
    assert pages.pages[-1][0] == last
    await following.stop()
    await writer.append(b"four", after=last, name="w4")
    await carrier.settle()
    assert len(pages.pages) == 3


async def test_only_who_knows_the_end_may_append(carrier: Carrier) -> None:
    first, second = (await carrier.open("a")).log("desk"), (await carrier.open("b")).log("desk")
    last = await first.append(b"one", after=0, name="a1")
    with pytest.raises(Superseded):
        await second.append(b"mine", after=0, name="b1")
    taken = await second.append(b"term", after=last, name="b2")
    with pytest.raises(Superseded):
        await first.append(b"two", after=last, name="a2")
    pages = Pages()
    await first.follow(pages)
    await second.append(b"three", after=taken, name="b3")
    await carrier.wait(lambda: len(pages.pages) == 3)
    assert pages.data == [b"one", b"term", b"three"]


async def test_of_many_who_try_at_once_one_succeeds(carrier: Carrier) -> None:
    logs = [(await carrier.open(f"p{number}")).log("desk") for number in range(4)]
    tries = (log.append(b"term", after=0, name=f"p{number}") for number, log in enumerate(logs))
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Superseded"] * 3 + ["int"]


async def test_an_append_done_again_is_stored_once(carrier: Carrier) -> None:
    log = (await carrier.open("writer")).log("desk")
    last = await log.append(b"one", after=0, name="w1")
    assert await log.append(b"one", after=0, name="w1") == last
    pages = Pages()
    await log.follow(pages)
    await log.append(b"two", after=last, name="w2")
    await carrier.wait(lambda: len(pages.pages) >= 2)
    assert pages.data == [b"one", b"two"]


async def test_logs_have_nothing_to_do_with_each_other(carrier: Carrier) -> None:
    bus = await carrier.open("writer")
    one, other = bus.log("desk"), bus.log("selector")
    last = await one.append(b"one", after=0, name="w1")
    await other.append(b"other", after=0, name="w2")
    pages = Pages()
    await one.follow(pages)
    await one.append(b"two", after=last, name="w3")
    await carrier.wait(lambda: len(pages.pages) == 2)
    assert pages.data == [b"one", b"two"]


async def test_what_is_trimmed_is_gone_and_the_log_goes_on(carrier: Carrier) -> None:
    log = (await carrier.open("writer")).log("desk")
    last = 0
    for number in range(4):
        last = await log.append(b"%d" % number, after=last, name=f"w{number}")
    await log.trim(last)
    pages = Pages()
    await log.follow(pages)
    await log.append(b"4", after=last, name="w4")
    await carrier.wait(lambda: len(pages.pages) == 2)
    assert pages.data == [b"3", b"4"]


async def test_a_log_outlives_its_server(carrier: Carrier) -> None:
    writer, reader = (await carrier.open("writer")).log("desk"), (await carrier.open("reader")).log("desk")
    pages = Pages()
    await reader.follow(pages)
    last = await writer.append(b"one", after=0, name="w1")
    await carrier.stop_server()
    appending = asyncio.ensure_future(writer.append(b"two", after=last, name="w2"))
    await asyncio.sleep(0)
    await carrier.start_server()
    last = await appending
    with pytest.raises(Superseded):
        await reader.append(b"mine", after=0, name="r1")
    await carrier.wait(lambda: len(pages.pages) == 2)
    assert pages.data == [b"one", b"two"]

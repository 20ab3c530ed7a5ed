"""Pieces that are sent while the next ones are made travel once, whoever asks for them when."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.server import EmbeddedServer
from bus.tensors import TensorBus
from runners.jobs.sending import Sending

PATIENCE = 30.0  # seconds: far more than anything here takes on a busy machine


class Pair:
    """Who sends and who follows."""

    def __init__(self, sender: TensorBus, follower: TensorBus) -> None:
        self.sender, self.follower = sender, follower
        self.streamed: list[str] = []
        plain = sender.stream

        async def noted(kind: str, name: str) -> bool:
            self.streamed.append(f"{kind}/{name}")
            return await plain(kind, name)

        sender.stream = noted  # type: ignore[method-assign]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two nodes on a server of the test's own."""
    async with EmbeddedServer(tmp_path / "store") as server:
        made = [await TensorBus.connect(server.url, job="j", node=node) for node in "ab"]
        yield Pair(*made)
        for node in made:
            await node.close()


async def test_what_was_begun_is_not_sent_again(pair: Pair) -> None:
    sending = Sending(pair.sender)
    await pair.follower.follow("delta0")
    held = pair.sender.keep("delta0", "1", bytes(100_000))
    sending.begin("delta0", "1")
    async with asyncio.timeout(PATIENCE):
        await sending.finish("delta0", "1")
    assert pair.streamed == ["delta0/1"]
    assert await pair.follower.fetch("a", "delta0", "1", held.size, held.digest, PATIENCE) == bytes(100_000)
    await sending.finish("delta0", "1")  # a round that was opened again: perhaps somebody else listens now
    assert pair.streamed == ["delta0/1"] * 2


async def test_what_nobody_heard_is_sent_again(pair: Pair) -> None:
    sending = Sending(pair.sender)
    pair.sender.keep("delta0", "1", bytes(100_000))
    sending.begin("delta0", "1")
    async with asyncio.timeout(PATIENCE):
        await sending.finish("delta0", "1")
    assert pair.streamed == ["delta0/1"] * 2


async def test_what_nobody_needs_any_more_is_broken_off(pair: Pair) -> None:
    sending = Sending(pair.sender)
    await pair.follower.follow("delta0")
    for number in range(3):
        pair.sender.keep("delta0", str(number), bytes(100_000))
        sending.begin("delta0", str(number))
    sending.forget("delta0", "1")
    sending.forget("delta0", "7")
    await sending.close()
    assert not sending._streams

"""The reducer's real works: differences over a real server, checked, made one, and told of."""

import asyncio
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.inputs import Result
from agents.reducer import shard_works, works
from bus.server import EmbeddedServer
from bus.tensors import TensorBus
from runners.jobs.averages import Averages
from runners.jobs.codecs import decode, encode
from runners.jobs.pieces import Pieces
from runners.jobs.reducer_works import ReducerWorks
from runners.jobs.session import Session
from runners.jobs.shard_works import ShardWorks
from runners.jobs.spec import JobSpec
from runners.jobs.tasks import TorchThread
from schemas.aggregation import Aggregation
from schemas.jobs import JobRequest
from schemas.shards import PieceHere

PATIENCE = 30.0  # seconds: far more than anything here takes on a busy machine

WORKLOAD = """
import torch
from torch import nn

class Line:
    def model(self):
        return nn.Linear(300, 1)
    def samples(self, split):
        return [torch.zeros(301)]
    def loss(self, model, batch):
        return (model(batch[:, :300]) ** 2).mean()
    def validate(self, model):
        return 0.5

workload = Line()
"""
COUNT = 301
GOOD = torch.linspace(-1, 1, COUNT)


def failed(error: BaseException) -> None:
    raise error


class Desk:
    """The works of the reducer `a`, and nodes that keep differences for it."""

    def __init__(self, session: Session, buses: dict[str, TensorBus]) -> None:
        self.session = session
        self.buses = buses
        self.results: asyncio.Queue[Result] = asyncio.Queue()
        self.averages = Averages(buses["a"], "a")
        self.works = ReducerWorks(session, buses["a"], self.averages, TorchThread(), failed)

    async def result(self, key: str, work: works.Work) -> Result:
        self.works.start(key, work, self.results.put_nowait)
        return await asyncio.wait_for(self.results.get(), PATIENCE)

    async def collect(self, node: str, payload: bytes, **claimed: int) -> Result:
        held = self.buses[node].keep("delta", "1", payload)
        size = claimed.get("size", held.size)
        return await self.result(
            f"collect/{node}/1", works.Collect(contributor=node, round=1, key="1", size=size, digest=held.digest)
        )

    async def reduce(self, nodes: str, method: Aggregation) -> tuple[torch.Tensor, dict[str, works.Treated]]:
        parts = tuple(works.Part(node=n, round=1, weight=1 / len(nodes), samples=80, steps=10) for n in nodes)
        done = await self.result(
            "reduce", works.Reduce(round=1, term=0, parts=parts, encoding="float32", aggregation=method)
        )
        assert isinstance(done, works.Reduced)
        payload = self.averages.here(done.average.digest)
        assert payload is not None
        return decode(payload), {treated.node: treated for treated in done.treated}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "linear_of_300.py").write_text(WORKLOAD)
    async with EmbeddedServer(tmp_path / "store") as server:
        request = JobRequest(kind="train", workload="linear_of_300:workload")
        spec = JobSpec(job="j", node="a", server=server.url, request=request, app_dir=str(tmp_path), device="cpu")
        buses = {node: await TensorBus.connect(server.url, job="j", node=node) for node in "abcde"}
        made = Desk(Session.load(spec), buses)
        yield made
        await made.works.close()
        await made.averages.close()
        for bus in buses.values():
            await bus.close()


@pytest.mark.parametrize("method", ["clip", "trimmed", "median", "krum", "centered_clip"])
async def test_a_wild_difference_hardly_moves_the_average_and_is_told_of(desk: Desk, method: Aggregation) -> None:
    for place, node in enumerate("abcd"):
        assert isinstance(await desk.collect(node, encode(GOOD * (1 + place / 100), "float32")), works.Collected)
    await desk.collect("e", encode(torch.full((COUNT,), -1e20), "float32"))
    average, treated = await desk.reduce("abcde", method)
    assert float((average - GOOD).norm()) < 1.3 * float(GOOD.norm())
    assert treated["e"].norm == pytest.approx(1e20 * COUNT**0.5)
    assert treated["e"].remark
    assert not any(treated[node].remark for node in "abcd")


async def test_an_honest_round_is_averaged_as_ever(desk: Desk) -> None:
    for node in "abc":
        await desk.collect(node, encode(GOOD, "int8"))
    average, treated = await desk.reduce("abc", "clip")
    torch.testing.assert_close(average, decode(encode(GOOD, "int8")))
    assert {each.scale for each in treated.values()} == {1.0}


async def test_two_releases_at_once_free_both_contributions(desk: Desk) -> None:
    for node in "bc":
        await desk.collect(node, encode(GOOD, "int8"))
    for node in "bc":
        desk.works.start("release/0", works.Release(parts=((node, 1),)), desk.results.put_nowait)
    await asyncio.sleep(0)
    assert not desk.works.collected


async def test_what_is_said_to_be_too_large_is_refused_before_memory_is_set_aside(desk: Desk) -> None:
    refused = await desk.collect("b", encode(GOOD, "float32"), size=10**15)
    assert isinstance(refused, works.CollectFailed)
    assert refused.unsound
    assert "1000000000000000 bytes" in refused.reason
    assert desk.buses["a"].bytes_in == 0


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (encode(GOOD[:-1], "float32"), "300 elements where the model has 301"),
        (encode(GOOD, "float32")[:-4] + struct.pack("<f", float("nan")), "NaN"),
        (encode(GOOD, "float32")[:-4] + struct.pack("<f", float("inf")), "infinite"),
        (b"what is this?" * 20, "no tensor we know"),
    ],
    ids=["shape", "nan", "infinite", "nonsense"],
)
async def test_what_is_no_difference_of_this_model_is_refused(desk: Desk, payload: bytes, words: str) -> None:
    refused = await desk.collect("b", payload)
    assert isinstance(refused, works.CollectFailed)
    assert refused.unsound
    assert words in refused.reason


async def test_a_difference_that_rounding_may_repeat_is_told_as_faint(desk: Desk) -> None:
    bits = desk.session.anchor.values * 1e-7
    for node, delta in (("b", torch.zeros(COUNT)), ("c", bits), ("d", GOOD / 1000)):
        collected = await desk.collect(node, encode(delta, "int8"))
        assert isinstance(collected, works.Collected)
        assert collected.faint == (node != "d")


async def test_of_large_averages_the_last_two_are_held(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.jobs.averages.KEPT_BYTES", 1000)
    made = [desk.averages.keep(str(number), bytes([number]) * 600).digest for number in range(4)]
    assert [desk.averages.here(digest) is not None for digest in made] == [False, False, True, True]


async def test_of_averages_in_shards_the_last_two_rounds_are_held_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.jobs.averages.KEPT_BYTES", 1000)
    made = [(n, desk.averages.keep(f"{n}-0-{part}", bytes([n, part]) * 300).digest) for n in range(4) for part in range(3)]
    assert {n for n, digest in made if desk.averages.here(digest) is not None} == {2, 3}
    assert sum(desk.averages.here(digest) is not None for _, digest in made) == 6


async def test_a_node_that_reduces_no_more_forgets_what_was_streamed_to_it(desk: Desk) -> None:
    reducer, node = desk.buses["a"], desk.buses["b"]
    await reducer.follow("delta")
    size = node.keep("delta", "1", bytes(5000)).size
    assert await node.stream("delta", "1")
    assert reducer.bytes_in == size
    await reducer.unfollow("delta")
    assert reducer.bytes_in == 0


async def test_pieces_whose_collection_is_stopped_while_they_are_looked_at_are_not_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on, measure = threading.Event(), threading.Event(), Pieces.measure

    def slowly(*arguments: Any) -> PieceHere:
        looking.set()
        go_on.wait(PATIENCE)
        return measure(*arguments)

    monkeypatch.setattr(Pieces, "measure", slowly)
    held = desk.buses["b"].keep("delta0", "1", encode(GOOD, "float32"))
    wanted = shard_works.Wanted(piece=0, size=held.size, digest=held.digest)
    torch_thread = TorchThread()
    shards = ShardWorks(desk.session, desk.buses["a"], desk.averages, torch_thread)
    work = shard_works.CollectPieces(contributor="b", round=1, key="1", digest="d", pieces=(wanted,))
    collecting = asyncio.ensure_future(shards.collect(work, desk.results.put_nowait))
    await asyncio.to_thread(looking.wait, PATIENCE)
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)
    go_on.set()
    await torch_thread.run(lambda: None)  # after what was looked at
    assert not shards.collected
    await shards.collect(work, desk.results.put_nowait)
    assert set(shards.collected["b", 1, "d"]) == {0}
    shards.release("b", 1)
    assert not shards.collected

"""`shoal doctor --fleet` with a real server and nodes of a toy's: who answers, who doesn't, and what is made of it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from bus.nats import NatsBus
from bus.port import Interest, Receipt
from bus.server import EmbeddedServer
from runners import doctor_fleet
from runners.cli.app import app
from runners.client import connect
from runners.doctor_fleet import FleetFigures, measure_fleet
from schemas.jobs import JobRequest
from schemas.measuring import Carried, MeasureNode, NodeMeasured
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeProfile
from schemas.wire import Message, seal

REQUEST = JobRequest(kind="train", workload="m:w", microbatch=8, local_steps=50)


class ToyNode:
    """Says that it lives, and answers what it is told to."""

    def __init__(self, bus: NatsBus, name: str, answer: NodeMeasured | None) -> None:
        self.bus, self.name, self.answer = bus, name, answer
        self.asked: list[MeasureNode] = []
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        await self.bus.subscribe([Interest(MeasureNode, {"node": self.name})], self._take)
        await self.say(NodeProfile(node=self.name, version=1, host="h", site="h", cpus=1, memory_bytes=1))
        link = LinkQualityChanged(
            node=self.name,
            version=1,
            quality=LinkQuality.FAIR,
            previous=None,
            score=70.0,
            latency_ms=1.0,
            jitter_ms=0.1,
            loss=0.0,
            trend="stable",
            reason="",
        )
        await self.say(link)

    async def say(self, message: Message) -> None:
        self._number += 1
        name = f"node/{self.name}:1:{self._number}"
        await self.bus.publish(seal(message, id=name, cause="", at=1.0, source=f"node/{self.name}"), dedup=name)

    def _take(self, message: Message, receipt: Receipt | None) -> None:
        assert isinstance(message, MeasureNode)
        self.asked.append(message)
        if receipt is not None:
            receipt.ack()
        if self.answer is not None:
            answer = msgspec.structs.replace(self.answer, node=self.name, ticket=message.ticket)
            for said in (answer, msgspec.structs.replace(answer, ticket="another")):
                task = asyncio.ensure_future(self.say(said))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)


def measured(step: float, rate: float = 10e6) -> NodeMeasured:
    rng = random.Random(1)
    carried = tuple(Carried(bytes=1_000_000, seconds=1e6 / rate * f) for f in (0.9, 1.0, 1.1))
    return NodeMeasured(
        node="x",
        ticket="x",
        device="cpu",
        parameters=100_000,
        microbatch=8,
        step_seconds=tuple(step * rng.uniform(0.9, 1.1) for _ in range(20)),
        up=carried,
        down=carried,
        streams=4,
    )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "store") as server:
        yield server


@contextlib.asynccontextmanager
async def fleet(server: EmbeddedServer, answers: dict[str, NodeMeasured | None]) -> AsyncIterator[list[ToyNode]]:
    """Toy nodes whose hearts beat until the end."""
    nodes = [ToyNode(await NatsBus.connect(server.url, source=f"node/{name}"), name, a) for name, a in answers.items()]
    for node in nodes:
        await node.live()

    async def beat() -> None:
        sequence = 0
        while True:
            sequence += 1
            for node in nodes:
                await node.say(NodeHeartbeat(node=node.name, sequence=sequence, interval=0.1))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await asyncio.Event().wait()

    beating = asyncio.ensure_future(beat())
    try:
        yield nodes
    finally:
        beating.cancel()
        for node in nodes:
            await node.bus.close()


async def examined(server: EmbeddedServer, seconds: float = 20.0) -> FleetFigures:
    async with await connect(server.url) as client:
        return await measure_fleet(client, REQUEST, seconds)


async def test_a_fleet_is_measured_and_forecast(server: EmbeddedServer) -> None:
    async with fleet(server, {"ada": measured(0.02), "bob": measured(0.04)}) as nodes:
        found = await examined(server)
        (asked,) = nodes[0].asked
    assert (asked.request, asked.streams, asked.seconds) == (REQUEST, 16, 20.0), "a fair link has sixteen connections"
    assert found.forecast is not None
    assert found.forecast.best == "ada"
    assert 1.0 < found.forecast.gain.low < 1.15 < found.forecast.gain.value < found.forecast.gain.high < 1.6
    ada, bob = found.nodes
    assert (ada.problem, ada.link, ada.device) == ("", "fair", "cpu")
    assert ada.step_ms == pytest.approx(20.0, rel=0.1)
    assert ada.up_mbit_per_s == pytest.approx(80.0)
    assert bob.value is not None
    assert bob.value.verdict == "helps"


async def test_who_is_busy_or_silent_is_named_and_left_out(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_fleet, "GRACE", 0.5)
    busy = NodeMeasured(node="x", ticket="x", problem="busy with j: not measured, so as not to disturb it")
    no_link = msgspec.structs.replace(measured(0.02), down=())
    answers = {"ada": measured(0.02), "bob": busy, "cyd": None, "dan": no_link, "eve": measured(0.02)}
    async with fleet(server, answers):
        found = await examined(server, seconds=1.0)
    problems = {node.node: node.problem for node in found.nodes}
    assert problems["ada"] == problems["eve"] == ""
    assert problems["bob"].startswith("busy with j")
    assert problems["cyd"].startswith("no answer")
    assert "too little" in problems["dan"]
    assert found.forecast is not None
    assert set(found.forecast.shares) == {"ada", "eve"}


async def test_one_machine_has_nothing_to_be_compared_with(server: EmbeddedServer) -> None:
    async with fleet(server, {"ada": measured(0.02)}):
        found = await examined(server)
    assert found.forecast is None
    assert found.nodes[0].samples_per_second == pytest.approx(400.0, rel=0.1)


async def test_without_nodes_there_is_nothing_to_wait_for(server: EmbeddedServer) -> None:
    assert (await examined(server, seconds=600.0)).nodes == ()


def test_a_job_file_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    wrong = tmp_path / "job.toml"
    wrong.write_text("kind = 'train'\nworkload = 'm:w'\nronds = 3")
    runner = CliRunner()
    for arguments, said in (
        (["--fleet", "--job", str(tmp_path / "none.toml")], "no file"),
        (["--fleet", "--job", str(wrong)], "rounds"),
        (["--job", str(wrong)], "--fleet"),
    ):
        result = runner.invoke(app, ["doctor", *arguments])
        assert result.exit_code == 2
        assert said in result.stderr

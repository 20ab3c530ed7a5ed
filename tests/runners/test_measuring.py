"""A node's own measurement with real processes, a real server and real links; and what is told where it fails."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agents.node import Measured, MeasuringWork
from bus.link_speed import SMALLEST, measure_link
from bus.port import Unreachable
from bus.server import EmbeddedServer
from runners.jobs.measuring import MeasuringSpec, measure
from runners.jobs.spec import JobSpec
from runners.node_work import NodeWorks, NodeWorksConfig
from schemas.jobs import JobRequest
from schemas.measuring import NodeMeasured

REQUEST = JobRequest(kind="train", workload="runners.jobs.default_workload:workload", microbatch=4)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "store") as server:
        yield server


@pytest.mark.parametrize("streams", [1, 3])
async def test_a_link_is_measured_both_ways(server: EmbeddedServer, streams: int) -> None:
    speed = await measure_link(server.url, node="ada", streams=streams)
    for way in (speed.up, speed.down):
        assert way[0].bytes == SMALLEST
        assert len(way) >= 3
        assert all(moved.seconds > 0 for moved in way)
        assert way[-1].bytes == way[-2].bytes == max(moved.bytes for moved in way)


async def test_a_link_without_time_gives_what_passed(server: EmbeddedServer) -> None:
    speed = await measure_link(server.url, node="ada", seconds=0.0)
    assert (speed.up, speed.down) == ((), ())


async def test_without_a_server_there_is_nothing_to_measure() -> None:
    with pytest.raises(Unreachable):
        await measure_link("nats://127.0.0.1:1", node="ada")


def spec(url: str, **job: object) -> MeasuringSpec:
    told = msgspec.structs.replace(JobSpec(job="measuring", node="ada", server=url, request=REQUEST), **job)
    return MeasuringSpec(ticket="t", job=told, streams=1, seconds=60.0, result="")


async def test_steps_and_link_together(server: EmbeddedServer) -> None:
    found = await asyncio.to_thread(measure, spec(server.url, step_time_ms=20.0, slowdown=2.0))
    assert found.problem == ""
    assert (found.device.partition(":")[0] in ("cpu", "cuda"), found.microbatch) == (True, 4)
    assert found.parameters > 500_000
    assert min(found.step_seconds) >= 0.04, "an emulated machine is as slow as it is said to be"
    assert found.up
    assert found.down


async def test_what_fails_is_told_and_the_rest_is_there(server: EmbeddedServer, tmp_path: Path) -> None:
    request = JobRequest(kind="train", workload="no_such_module:workload")
    found = await asyncio.to_thread(measure, spec(server.url, request=request, app_dir=str(tmp_path)))
    assert "no_such_module" in found.problem
    assert found.up


def test_without_torch_a_node_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = measure(spec("nats://127.0.0.1:1"))
    assert "torch can't be imported: pip install" in found.problem
    assert "127.0.0.1:1" in found.problem, "and that its server is out of reach, too"


async def measured_by(tmp_path: Path, script: str, seconds: float = 20.0) -> NodeMeasured:
    """What a node tells whose child is that script."""
    config = NodeWorksConfig(
        node="ada", server="nats://127.0.0.1:1", folder=tmp_path, measuring_argv=(sys.executable, "-c", script)
    )
    works, posted = NodeWorks(config), asyncio.get_running_loop().create_future()
    try:
        work = MeasuringWork(ticket="t", request=REQUEST, streams=1, seconds=seconds)
        works.start("measure/t", work, posted.set_result)
        result = await asyncio.wait_for(posted, 30.0)
    finally:
        await works.close()
    assert isinstance(result, Measured)
    assert not list(tmp_path.glob("measure-*")), "nothing is left behind"
    assert (result.found.node, result.found.ticket) == ("ada", "t")
    return result.found


async def test_a_child_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    assert "out of luck" in (await measured_by(tmp_path, "import sys; sys.exit('out of luck')")).problem
    assert "SIGKILL" in (await measured_by(tmp_path, "import os; os.kill(os.getpid(), 9)")).problem


async def test_a_child_that_writes_nothing_has_measured_nothing(tmp_path: Path) -> None:
    assert "without a result" in (await measured_by(tmp_path, "pass")).problem


async def test_what_a_child_found_before_it_died_is_told(tmp_path: Path) -> None:
    found = """import json, sys
spec = json.load(open(sys.argv[-1]))
json.dump({"node": "ada", "ticket": "t", "device": "tpu"}, open(spec["result"], "w"))
sys.exit("out of luck")"""
    told = await measured_by(tmp_path, found)
    assert (told.device, told.problem) == ("tpu", "out of luck")


async def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"import os, signal; open({str(pid)!r}, 'w').write(str(os.getpid())); signal.pause()"
    assert "was given up" in (await measured_by(tmp_path, script, seconds=0.5)).problem
    if pid.exists():  # it had begun
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


async def test_a_node_that_ends_takes_its_measurement_along(tmp_path: Path) -> None:
    config = NodeWorksConfig(
        node="ada",
        server="nats://127.0.0.1:1",
        folder=tmp_path,
        measuring_argv=(sys.executable, "-c", "import signal; signal.pause()"),
    )
    works = NodeWorks(config)
    works.start("measure/t", MeasuringWork(ticket="t", request=REQUEST, streams=1, seconds=600.0), lambda result: None)
    await asyncio.wait_for(works.close(), 20.0)

"""What a job left is brought from the object store of a real server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from report_story import told
from toy_desk import PATIENCE, ToyDesk

from bus.server import EmbeddedServer
from runners.client import Client, connect
from runners.fetching import NothingToFetch, fetch_ended, fetch_job
from runners.jobs.names import checkpoint_name, model_name, report_name
from runners.report import build_report
from schemas.jobs import ReportReady

MODEL = bytes(range(256)) * 1000


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with EmbeddedServer(tmp_path / "store") as server, await connect(server.url) as client:
        yield client


def report() -> bytes:
    return msgspec.json.encode(build_report("demo", told(rounds=4)))


async def test_model_report_and_picture_come_whole(client: Client, tmp_path: Path) -> None:
    await client.bus.put_object(model_name("demo"), MODEL)
    await client.bus.put_object(report_name("demo"), report())
    fetched = await fetch_job(client, "demo", tmp_path / "runs")
    assert [file.relative_to(tmp_path).as_posix() for file in fetched.files] == [
        "runs/demo/model.safetensors",
        "runs/demo/report.json",
        "runs/demo/loss.png",
    ]
    assert fetched.missing == ()
    assert fetched.files[0].read_bytes() == MODEL
    assert fetched.files[1].read_bytes() == report()
    assert fetched.files[2].read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in fetched.files[0].parent.iterdir()) == [
        "loss.png",
        "model.safetensors",
        "report.json",
    ]


async def test_of_a_job_under_way_there_is_the_checkpoint(client: Client, tmp_path: Path) -> None:
    await client.bus.put_object(checkpoint_name("demo"), MODEL)
    fetched = await fetch_job(client, "demo", tmp_path)
    assert [file.name for file in fetched.files] == ["checkpoint.safetensors"]
    assert fetched.missing == ("no model.safetensors (yet)", "no report.json (yet)")


async def test_fetching_again_replaces_what_is_there(client: Client, tmp_path: Path) -> None:
    for model in (MODEL, MODEL[::-1]):
        await client.bus.put_object(model_name("demo"), model)
        (file,) = (await fetch_job(client, "demo", tmp_path)).files
        assert file.read_bytes() == model


async def test_nothing_to_fetch_says_why(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NothingToFetch, match="no such job; `shoal jobs`"):
        await fetch_job(client, "demo", tmp_path)
    desk = await ToyDesk.open(client.address.url)
    await client.submit({"kind": "train", "workload": "m:w", "id": "demo"})
    with pytest.raises(NothingToFetch, match="it is queued: waiting for 2 nodes"):
        await fetch_job(client, "demo", tmp_path)
    assert not (tmp_path / "demo").exists()
    await desk.close()


async def test_the_report_of_a_job_that_just_ended_is_waited_for(client: Client, tmp_path: Path) -> None:
    await client.bus.put_object(model_name("demo"), MODEL)
    fetching = asyncio.ensure_future(fetch_ended(client, "demo", tmp_path))
    await client.bus.round_trip(PATIENCE)  # it looks for the report meanwhile
    await client.bus.put_object(report_name("demo"), report())
    await client.publish(ReportReady(job="demo", name=report_name("demo"), size=1, digest=""))
    fetched = await asyncio.wait_for(fetching, PATIENCE)
    assert fetched.missing == ()

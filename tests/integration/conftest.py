"""One fleet for all tests that can share it: a server, all agents, three nodes, all as processes that users start."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import nats
import pytest
import pytest_asyncio
from process_fleet import PATIENCE, ProcessFleet
from story import Story, following

from runners.client import Client, connect

NODES = ("a", "b", "c")
STEP_TIME = "20"  # ms: rounds of some tenths of a second
END_FLAG = "long-job-may-end"


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFleet]:
    """`shoal up` and the nodes a, b, c."""
    home = tmp_path_factory.mktemp("fleet")
    with ProcessFleet(home, {"POINTS_ARE_GOOD_ENOUGH": str(home / END_FLAG)}) as made:
        made.up()
        for name in NODES:
            made.node(name, "--step-time", STEP_TIME)
        yield made


@pytest.fixture
async def client(fleet: ProcessFleet) -> AsyncIterator[Client]:
    """Shoal's own client."""
    async with await connect(fleet.url, name="test") as made:
        yield made


@pytest.fixture
async def story(client: Client) -> AsyncIterator[Story]:
    """All that is said in the fleet, and was before."""
    async with following(client) as made:
        yield made


@pytest.fixture
async def news(client: Client) -> AsyncIterator[Story]:
    """All that is said from now on."""
    async with following(client, past=False) as made:
        yield made


async def ask(url: str, subject: str, body: bytes) -> dict[str, object]:
    """A request as anybody with a NATS client makes it."""
    connection = await nats.connect(url)
    try:
        answer = await connection.request(subject, body, timeout=PATIENCE)
    finally:
        await connection.close()
    decoded: dict[str, object] = msgspec.json.decode(answer.data)
    return decoded


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def finished_job(fleet: ProcessFleet) -> str:
    """A job that a plain NATS client submitted, completed; its id."""
    body = msgspec.json.encode({"kind": "train", "workload": "points:workload", "rounds": 5, "min_nodes": 2})
    answer = await ask(fleet.url, "shoal.jobs.submit", body)
    assert answer == {"accepted": True, "job": answer["job"]}
    job = str(answer["job"])
    async with await connect(fleet.url, name="test") as client, following(client) as story:
        state = await story.ended(job)
    assert state.state.value == "completed", state.reason
    return job


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory that no `shoal up` knows of."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path

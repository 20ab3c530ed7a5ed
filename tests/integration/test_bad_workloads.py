"""Workloads that go wrong fail their job with the traceback's end; the node lives on and takes the next job."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from process_fleet import ProcessFleet
from rules import must_have_run_well
from story import Story, following

from runners.client import Client, connect
from schemas.jobs import JobPhase
from schemas.nodes import NodeHeartbeat, WorkEnded, WorkFailed, WorkPrinted

# One attempt: restarts are the node's own tests' matter, and each costs an import of torch.
SETTINGS = "[node]\nattempts = 1\nstartup_seconds = 60.0\n"
NODE = "frail"
TROUBLE = {
    "broken:workload": ("import", "RuntimeError: this module is broken on purpose"),
    "points:wrkload": ("import", "did you mean 'workload'"),
    "trouble:raises": ("raised", "ValueError: the third batch is spoilt"),
    "trouble:eats_memory": ("out_of_memory", "MemoryError"),
    "trouble:hangs": ("hung", "trouble.py"),
}


@pytest.fixture(scope="module")
def node(fleet: ProcessFleet) -> Iterator[str]:
    """A node of its own, with settings of its own, since its store is elsewhere."""
    home = fleet.home / "frail"
    home.mkdir()
    (home / "shoal.toml").write_text(SETTINGS)
    program = fleet.node(NODE, "--store", str(home / ".shoal"), "--server", fleet.url)
    yield NODE
    program.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def jobs(fleet: ProcessFleet, node: str) -> dict[str, str]:
    """All of them at once: workload to job."""
    async with await connect(fleet.url) as client:
        # Only the one that hangs is given up soon: on a crowded machine, five seconds may pass between two steps.
        patience = {workload: 5.0 if kind == "hung" else 60.0 for workload, (kind, _) in TROUBLE.items()}
        return {workload: await submit(client, workload, hang_seconds=patience[workload]) for workload in TROUBLE}


@pytest.fixture
async def node_story(client: Client) -> AsyncIterator[Story]:
    """What this node says."""
    async with following(client, f"shoal.nodes.{NODE}.*") as story:
        yield story


async def submit(client: Client, workload: str, **more: Any) -> str:
    body = {"kind": "train", "workload": workload, "rounds": 2, "exclude": ["a", "b", "c"], "min_nodes": 1}
    return (await client.submit(body | more)).job


@pytest.mark.parametrize("workload", TROUBLE)
async def test_the_job_fails_with_the_end_of_the_traceback(
    fleet: ProcessFleet, jobs: dict[str, str], story: Story, workload: str
) -> None:
    kind, words = TROUBLE[workload]
    job = jobs[workload]
    failed = await story.heard(WorkFailed, lambda m: m.job == job)
    assert (failed.node, failed.kind, failed.retry) == (NODE, kind, False), failed
    assert any(words in line for line in failed.last_lines), failed.last_lines
    state = await story.ended(job)
    assert state.state is JobPhase.FAILED
    assert NODE in state.reason


async def test_logs_tell_why(fleet: ProcessFleet, jobs: dict[str, str], story: Story) -> None:
    job = jobs["trouble:raises"]
    await story.ended(job)
    said = await fleet.cli("logs", job)
    assert said.code == 0
    assert "ValueError: the third batch is spoilt" in said.out
    assert all(line.startswith(NODE) for line in said.out.splitlines())


async def test_the_node_lives_on_and_takes_the_next_job(
    fleet: ProcessFleet, client: Client, jobs: dict[str, str], story: Story
) -> None:
    for job in jobs.values():
        await story.ended(job)
    assert fleet.nodes[NODE].process.poll() is None
    idle = await story.heard(NodeHeartbeat, lambda m: m.node == NODE and not m.jobs, since=story.mark)
    assert idle.sequence > 1
    job = await submit(client, "trouble:narrow", precision="bfloat16")
    assert (await story.ended(job)).state is JobPhase.COMPLETED
    await must_have_run_well(client, job)
    await story.heard(WorkEnded, lambda m: m.job == job)
    printed = [line for m in story.of(WorkPrinted, lambda m: m.job == job) for line in m.lines]
    assert sum(line.startswith("validated, and the loss is") for line in printed) >= 2
    # Its steps don't fit the memory, which is no trouble: they are made in passes that do.
    assert story.of(WorkFailed, lambda m: m.job == job) == []
    assert any(line.endswith("steps are made in passes of 2 from now on") for line in printed)
    assert "computing in bfloat16 on cpu; parameters stay as they are" in printed

"""A job that goes on where another stopped, and ends before its time."""

import pytest
from process_fleet import ProcessFleet, left_over
from rules import must_have_run_well
from story import Story

from runners.client import Client, Refused
from schemas.jobs import JobPhase
from schemas.nodes import WorkEnded
from schemas.training import RoundClosed

LONG = {"kind": "train", "workload": "points:workload", "rounds": 100_000}
PART = ("a", "b")  # of the nodes


async def test_resumed_a_job_goes_on_where_the_other_stopped_and_cancelled_it_ends(
    fleet: ProcessFleet, client: Client, finished_job: str, story: Story
) -> None:
    before = await must_have_run_well(client, finished_job)
    job = (await client.submit(LONG | {"resume": finished_job, "min_nodes": 2, "exclude": ["c"]})).job
    first = await story.heard(RoundClosed, lambda m: m.job == job and m.round == 1)
    assert first.loss < before[len(before) // 2].loss
    processes = [fleet.job(node) for node in PART]

    said = await fleet.cli("cancel", job, "--reason", "seen enough")
    assert said.code == 0
    state = await story.ended(job)
    assert (state.state, state.reason) == (JobPhase.CANCELLED, "seen enough")
    for node in PART:
        await story.heard(WorkEnded, lambda m, node=node: (m.job, m.node) == (job, node))
    assert left_over(processes) == []
    assert all(fleet.working(node) == [] for node in PART)

    again = await fleet.cli("cancel", finished_job)
    assert again.code == 1
    assert "ended already" in again.err


async def test_resume_of_nothing_is_refused(client: Client) -> None:
    with pytest.raises(Refused, match="no job nobody") as refused:
        await client.submit(LONG | {"resume": "nobody"})
    assert refused.value.field == "$.resume"

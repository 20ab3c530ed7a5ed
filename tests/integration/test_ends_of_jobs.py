"""Jobs that end before their time, and jobs that go on where another stopped."""

import pytest
from process_fleet import ProcessFleet, family, left_over
from rules import must_have_run_well
from story import Story

from runners.client import Client, Refused
from schemas.jobs import JobPhase
from schemas.nodes import WorkEnded
from schemas.training import RoundClosed

LONG = {"kind": "train", "workload": "points:workload", "rounds": 100_000, "min_nodes": 3}


async def test_cancel_ends_the_job_and_its_processes(fleet: ProcessFleet, client: Client, story: Story) -> None:
    job = (await client.submit(LONG)).job
    await story.heard(RoundClosed, lambda m: m.job == job)
    processes = [fleet.job(node) for node in "abc"]
    said = await fleet.cli("cancel", job, "--reason", "seen enough")
    assert said.code == 0
    state = await story.ended(job)
    assert (state.state, state.reason) == (JobPhase.CANCELLED, "seen enough")
    for node in "abc":
        await story.heard(WorkEnded, lambda m, node=node: (m.job, m.node) == (job, node))
    assert left_over(processes) == []
    assert all(len(family(fleet.nodes[node].pid)) == 1 for node in "abc")


async def test_resume_goes_on_where_the_other_job_stopped(client: Client, finished_job: str, story: Story) -> None:
    job = (await client.submit({"kind": "train", "workload": "points:workload", "rounds": 2, "resume": finished_job})).job
    assert (await story.ended(job)).state is JobPhase.COMPLETED
    rounds = await must_have_run_well(client, job)
    before = await must_have_run_well(client, finished_job)
    assert rounds[0].loss < before[len(before) // 2].loss
    assert rounds[-1].loss < before[-1].loss


async def test_resume_of_nothing_is_refused(client: Client) -> None:
    with pytest.raises(Refused, match="no job nobody") as refused:
        await client.submit(LONG | {"resume": "nobody"})
    assert refused.value.field == "$.resume"

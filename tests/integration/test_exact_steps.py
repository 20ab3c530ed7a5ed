"""A job with `sync = "step"` among real processes: one gradient a round from each, and everybody's optimizer agrees."""

from process_fleet import ProcessFleet
from rules import must_have_run_well
from story import Story

from runners.client import Client
from schemas.jobs import JobRequest
from schemas.training import Assignment

ROUNDS = 6


async def test_gradients_are_averaged_and_every_node_takes_the_same_step(
    fleet: ProcessFleet, client: Client, story: Story
) -> None:
    request = JobRequest(kind="train", workload="points:workload", rounds=ROUNDS, min_nodes=2, sync="step")
    job = (await client.submit(request)).job
    await story.ended(job)
    rounds = await must_have_run_well(client, job)
    assert len(rounds) == ROUNDS
    assert all(part.late == 0 for closed in rounds for part in closed.contributions)
    assert len({part.node for closed in rounds for part in closed.contributions}) >= 2
    shares = [share for said in story.of(Assignment) if said.job == job for share in said.shares.values()]
    assert {(share.local_steps, share.every, share.encoding) for share in shares} == {(1, 1, "float32")}

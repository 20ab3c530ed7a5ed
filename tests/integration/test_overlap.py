"""Jobs with `sync = "overlap"` among real processes: a round ahead, in fragments, and with processes killed."""

import os
import signal

from conftest import END_FLAG, NODES
from process_fleet import ProcessFleet
from rules import must_have_run_well
from story import Story

from runners.client import Client
from schemas.anchors import CaughtUp
from schemas.fragments import turn_of
from schemas.jobs import JobRequest
from schemas.training import ContributionOffered, RoundApplied, RoundClosed, RoundOpened

ROUNDS, FRAGMENTS = 8, 3
REQUEST = {
    "kind": "train", "workload": "points_until_told:workload", "rounds": 1_000_000, "min_nodes": 3, "target_loss": 100.0,
    "sync": "overlap", "fragments": FRAGMENTS,
}  # fmt: skip


async def test_fragments_take_turns_and_the_last_round_has_them_all(
    fleet: ProcessFleet, client: Client, story: Story
) -> None:
    request = JobRequest(
        kind="train", workload="points:workload", rounds=ROUNDS, min_nodes=2, sync="overlap", fragments=FRAGMENTS,
        encoding="float32",
    )  # fmt: skip
    job = (await client.submit(request)).job
    await story.ended(job)
    rounds = await must_have_run_well(client, job)
    assert len(rounds) == ROUNDS
    sizes = {closed.round: closed.average.size for closed in rounds}
    assert max(size for number, size in sizes.items() if number < ROUNDS) < sizes[ROUNDS] / 2
    for closed in rounds:
        turns = {turn_of(part.round, FRAGMENTS, ROUNDS) for part in closed.contributions}
        assert turns == {turn_of(closed.round, FRAGMENTS, ROUNDS)}
    offers = story.of(ContributionOffered, lambda m: m.job == job)
    applied = {(m.node, m.version): m.at for m in story.of(RoundApplied, lambda m: m.job == job)}
    for offer in offers:
        if offer.round > 1:
            assert applied[offer.node, offer.round - 1] < offer.at, "a difference is made to an anchor that is here"


async def test_it_goes_on_when_processes_are_killed(fleet: ProcessFleet, client: Client, news: Story) -> None:
    flag = fleet.home / END_FLAG
    flag.unlink(missing_ok=True)
    job = (await client.submit(REQUEST)).job
    await news.rounds(job, 2, 0)
    opened = await news.heard(RoundOpened, lambda m: m.job == job, since=news.mark)
    for victim in (next(node for node in NODES if node != opened.node), opened.node):
        since = news.mark
        os.kill(fleet.job(victim), signal.SIGKILL)
        await news.heard(CaughtUp, lambda m, victim=victim: m.job == job and m.node == victim, since=since)
        await news.heard(
            RoundClosed,
            lambda m, victim=victim: m.job == job and any(part.node == victim for part in m.contributions),
            since=news.mark,
        )
    flag.touch()
    await news.ended(job)
    await must_have_run_well(client, job)

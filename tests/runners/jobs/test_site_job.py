"""A job some of whose nodes stand at one site, in one process: real cores, torch, gloo, tensors and server."""

from pathlib import Path

from job_in_process import NAMES, Job, job_in_process

from schemas.jobs import ModelStored
from schemas.training import ContributionOffered, Roster, RoundApplied, RoundClosed, StepTimed, TrainerReady

ROUNDS = 7
HEARD = (RoundClosed, RoundApplied, ContributionOffered, ModelStored, TrainerReady, StepTimed)


async def enrol(job: Job, version: int, *sites: tuple[str, ...], nodes: tuple[str, ...] = NAMES) -> None:
    await job.say(Roster(job="j", version=version, nodes=nodes, reducers=("c",), quorum=1, sites=sites, reason=""))


async def test_a_site_sends_once_and_gets_once_until_one_of_it_is_gone(tmp_path: Path) -> None:
    async with job_in_process(tmp_path, "square_site", 60, rounds=ROUNDS, validate_every=0, site_every=1) as job:
        story = job.story
        await job.begin(*HEARD, deadline_seconds=20.0)
        await story.until(3, TrainerReady)
        await enrol(job, 1, ("a", "b"))
        await story.until(1, ContributionOffered, node="a", round=4)
        job.stops["b"].set()  # in the midst of a round, without a word to the others
        await job.running["b"]
        await enrol(job, 2, nodes=("a", "c"))
        await story.until(1, ModelStored)
        await job.end()
    closed = story.one_anchor(ROUNDS)
    together = [c for each in closed.values() for c in each.contributions if c.through]
    assert {(c.node, c.through) for c in together} == {("a", "a"), ("b", "a")}
    assert len(together) >= 2, "the site sent as one in a round at least"
    met = [(timed.node, timed.round) for timed in story.of(StepTimed) if timed.met == 2]
    assert {"a", "b"} == {node for node, _ in met}, "steps of three, an average after each"
    rounds = {c.round for c in together}
    assert not [o for o in story.of(ContributionOffered) if o.node == "b" and o.round in rounds], "b left it to a"
    for each in closed.values():
        counted = [(c.node, c.round) for c in each.contributions]
        assert len(set(counted)) == len(counted)
        assert abs(sum(c.weight for c in each.contributions) - 1) < 1e-6
    assert [c.node for c in closed[ROUNDS].contributions] == ["a", "c"]

"""A job that several nodes reduce, in one process: real cores, torch, tensors and server."""

from pathlib import Path

from job_in_process import NAMES, job_in_process

from schemas.jobs import ModelStored
from schemas.training import AverageOffered, Roster, RoundApplied, RoundClosed

ROUNDS = 6


async def test_shards_of_real_tensors_make_up_one_anchor_and_a_helper_may_go(tmp_path: Path) -> None:
    async with job_in_process(tmp_path, "square_work", 200, rounds=ROUNDS, reducers=3) as job:
        story = job.story
        await job.begin(RoundClosed, RoundApplied, AverageOffered, ModelStored, deadline_seconds=3.0)
        await job.say(Roster(job="j", version=1, nodes=NAMES, reducers=NAMES, helpers=NAMES, quorum=2, reason=""))
        await story.until(2, RoundClosed)
        job.stops["c"].set()  # in the midst of a round, without a word to the others
        await story.until(1, ModelStored)
        await job.end()
    closed = story.one_anchor(ROUNDS)
    makers = [{message.node for message in story.of(AverageOffered) if message.round == n} for n in closed]
    assert makers[0] == set(NAMES)
    assert makers[-1] == {"a", "b"}
    for each in closed.values():
        assert sorted(piece for shard in each.average.shards for piece in shard.pieces) == [0, 1, 2]

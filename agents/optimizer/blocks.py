"""What a closed round says of a job's rate and loss; with `sync = "async"` only several versions together say anything.

A version has whoever came: one of fast nodes alone and one of slow ones follow each other, and the figures of either are no
measure of the job.
"""

from math import isfinite

from agents.optimizer.state import RoundSeen, Run
from schemas.training import RoundClosed

BLOCK = 4
"""Versions of a block: two intervals, in each of which every regular node contributes once."""


def measure(run: Run, event: RoundClosed) -> RoundSeen | None:
    """What is to be remembered of a round, or of the versions of a block with its last one; None: nothing yet."""
    if event.seconds <= 0 or not isfinite(event.loss):
        return None
    run.block.append((event.samples, event.seconds, event.loss))
    if len(run.block) < (BLOCK if run.sync == "async" else 1):
        return None
    samples, seconds = sum(one[0] for one in run.block), sum(one[1] for one in run.block)
    loss = sum(one[0] * one[2] for one in run.block) / max(1, samples) if len(run.block) > 1 else event.loss
    run.block = []
    return RoundSeen(event.round, run.efficiency * samples / seconds, loss, seconds)

"""What must hold of the batch controller's state after every event."""

import math
from collections.abc import Iterator

from agents.batch_controller import microbatch, transfers
from agents.batch_controller.deadlines import OPENINGS
from agents.batch_controller.learning import REMEMBERED
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import BatchControllerState, Job
from schemas.jobs import JobRequest
from schemas.lengths import free_lengths
from schemas.training import MOST_STREAMS, Share


def faults(state: BatchControllerState, settings: BatchControllerSettings) -> list[str]:
    """What is wrong, in words; nothing, if all is well."""
    found = []
    if max(len(state.jobs), len(state.ended)) > settings.jobs_kept:
        found.append("more jobs than are to be kept")
    if len(state.nodes) > settings.nodes_kept:
        found.append("more nodes than are to be kept")
    for name, job in state.jobs.items():
        if name in state.ended:
            found.append(f"{name}: ended, yet under way")
        found += [f"{name}: {what}" for what in _of_job(job, settings)]
        if job.request is not None and job.roster and job.current is not None and not state.silent_until:
            found += [f"{name}: {what}" for what in _of_shares(job, job.request, settings)]
    return found


def _most_steps(request: JobRequest, share: Share, low: int, settings: BatchControllerSettings) -> int:
    """Steps a round at most. `goodput` stretches rounds that may be longer, and makes as many samples of smaller steps."""
    if request.sync == "step":
        return 1
    if request.batch != "goodput":
        return request.local_steps
    smaller = max(1.0, microbatch.power_of_two_below(max(low, request.microbatch)) / share.microbatch)
    stretch = settings.stretch if free_lengths(request) else 1.0
    return math.ceil(request.local_steps * stretch * smaller) + 1


def _of_job(job: Job, settings: BatchControllerSettings) -> Iterator[str]:
    versions = [kept.version for kept in job.history]
    if versions != sorted(set(versions)):
        yield f"versions {versions} don't grow"
    if len(versions) > settings.assignments_kept:
        yield "more assignments than are to be kept"
    if (job.current.version if job.current is not None else None) != (versions[-1] if versions else None):
        yield "the assignment in force isn't the last of the history"
    for name, known in job.nodes.items():
        lengths = [len(of_one) for table in (known.steps, known.up, known.down) for of_one in table.values()]
        if max(lengths, default=0) > REMEMBERED or max(len(known.up), len(known.down)) > transfers.SIZES:
            yield f"{name}: more measurements than are to be kept"
        if len(known.arrivals) > settings.deadline_history:
            yield f"{name}: more arrivals than are to be kept"
        if not 0 <= known.misses <= settings.misses_counted:
            yield f"{name}: {known.misses} missed deadlines"
        if not 0 <= known.turns <= settings.turns_counted:
            yield f"{name}: {known.turns} turns"
    if len(job.openings) > OPENINGS:
        yield "more openings than are to be kept"
    if job.overhead < 0:
        yield "a negative overhead"


def _of_shares(job: Job, request: JobRequest, settings: BatchControllerSettings) -> Iterator[str]:
    if job.current is None:
        return
    shares = job.current.shares
    if set(shares) != set(job.roster):
        yield f"shares for {sorted(shares)}, but the roster is {sorted(job.roster)}"
    low, high = microbatch.bounds(request.microbatch_min, request.microbatch_max)
    for name, share in shares.items():
        size = share.microbatch
        if not low <= size <= high or size & (size - 1):
            yield f"{name}: {size} samples a step, not a power of two from {low} to {high}"
        most = _most_steps(request, share, low, settings)
        if not 1 <= share.local_steps <= most * max(1, share.every):
            yield f"{name}: {share.local_steps} steps for {share.every} rounds of at most {most}"
        if request.sync == "step" and share.every > 1:
            yield f"{name}: a gradient every {share.every} rounds, which would always be late"
        if share.every < 1 or not 1 <= share.streams <= MOST_STREAMS:
            yield f"{name}: every {share.every} rounds over {share.streams} connections"
        if request.encoding not in ("auto", share.encoding):
            yield f"{name}: {share.encoding} where {request.encoding} was asked for"
    regular = sum(share.every == 1 for share in shares.values())
    if regular < (1 if request.sync == "async" else min(job.quorum, len(shares))):
        yield f"only {regular} of {len(shares)} nodes contribute to each round, the quorum is {job.quorum}"
    if len({(s.microbatch, s.local_steps, s.encoding) for s in shares.values()}) > 1 and request.batch == "fixed":
        yield "unequal work where equal work was asked for"
    if job.current.round_seconds <= 0 or job.current.deadline_seconds <= 0:
        yield "a round without a duration"

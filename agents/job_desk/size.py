"""How much of a job is done where its rounds have another length than was asked for.

With strategy `goodput` rounds are as long as serves the job, and `rounds` of them would be more work than was asked for.
Such a job is done when the fastest node has taken as many samples, and made as many steps, as `rounds` rounds of
`local_steps` steps of `microbatch` samples have; both, since fewer steps of more samples each would teach it less.

A job with a target loss may have shorter rounds, and as many more (`schemas.lengths`): it is over once its fastest node has
taken as many samples as `rounds` rounds have.
"""

from agents.job_desk.state import Job
from schemas.lengths import may_shorten
from schemas.training import RoundClosed


def stretches(job: Job) -> bool:
    """Whether a job's rounds may be longer than asked for."""
    return job.request.batch == "goodput" and job.request.sync == "round"


def count(job: Job, event: RoundClosed) -> None:
    """A round is closed."""
    in_time = [part for part in event.contributions if part.late == 0 and part.steps > 0]
    if not in_time or not (stretches(job) or may_shorten(job.request)):
        return
    asked = job.request.local_steps
    job.done.samples += max(part.samples for part in in_time) / (asked * job.request.microbatch)
    job.done.steps += max(part.steps for part in in_time) / asked


def enough(job: Job) -> str:
    """Why a job is done before its last round, in words; empty while it isn't."""
    asked = f"{job.request.rounds} rounds of {job.request.local_steps} steps"
    if may_shorten(job.request) and job.done.samples >= job.request.rounds:
        return f"{job.round} rounds had as many samples as {asked} of {job.request.microbatch}"
    if not stretches(job) or min(job.done.samples, job.done.steps) < job.request.rounds:
        return ""
    return f"{job.round} long rounds had as many steps and samples as {asked} of {job.request.microbatch}"

"""How much of a job is done where its rounds are longer than they were asked for.

With strategy `goodput` rounds are as long as serves the job, and `rounds` of them would be more work than was asked for.
Such a job is done when the fastest node has taken as many samples, and made as many steps, as `rounds` rounds of
`local_steps` steps of `microbatch` samples have; both, since fewer steps of more samples each would teach it less.
"""

from agents.job_desk.state import Job
from schemas.training import RoundClosed


def stretches(job: Job) -> bool:
    """Whether a job's rounds may be longer than asked for."""
    return job.request.batch == "goodput" and job.request.sync == "round"


def count(job: Job, event: RoundClosed) -> None:
    """A round is closed."""
    in_time = [part for part in event.contributions if part.late == 0 and part.steps > 0]
    if not in_time or not stretches(job):
        return
    asked = job.request.local_steps
    job.done.samples += max(part.samples for part in in_time) / (asked * job.request.microbatch)
    job.done.steps += max(part.steps for part in in_time) / asked


def enough(job: Job) -> str:
    """Why a job is done before its last round, in words; empty while it isn't."""
    if not stretches(job) or min(job.done.samples, job.done.steps) < job.request.rounds:
        return ""
    asked = f"{job.request.rounds} rounds of {job.request.local_steps} steps"
    return f"{job.round} long rounds had as many steps and samples as {asked} of {job.request.microbatch}"

"""How much of a job is done where its rounds have another length than was asked for.

A job with a target loss may have shorter rounds, and as many more, or longer ones (`schemas.lengths`). `rounds` rounds of
`local_steps` are a limit of work then: it is over once its fastest node has taken as many samples, and with `goodput`,
which chooses microbatches by what they teach, made as many steps; both, since fewer steps of more samples teach less.
"""

from agents.job_desk.state import Job
from schemas.lengths import free_lengths
from schemas.training import RoundClosed


def count(job: Job, event: RoundClosed) -> None:
    """A round is closed."""
    in_time = [part for part in event.contributions if part.late == 0 and part.steps > 0]
    if not in_time or not free_lengths(job.request):
        return
    asked = job.request.local_steps
    job.done.samples += max(part.samples for part in in_time) / (asked * job.request.microbatch)
    job.done.steps += max(part.steps for part in in_time) / asked


def enough(job: Job) -> str:
    """Why a job is done before its last round, in words; empty while it isn't."""
    both = job.request.batch == "goodput"
    done = min(job.done.samples, job.done.steps) if both else job.done.samples
    if not free_lengths(job.request) or done < job.request.rounds:
        return ""
    what = "steps and samples" if both else "samples"
    asked = f"{job.request.rounds} rounds of {job.request.local_steps} steps of {job.request.microbatch}"
    return f"{job.round} rounds had as many {what} as {asked}"

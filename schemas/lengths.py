"""How long a job's rounds may be, and how many: one answer for the desk, which ends it, and the batch controller, which
cuts it.

A round of a job that ends by its rounds has as much work as was asked for, whatever the strategy: who counts rounds counts
work. Where a target loss ends it, what counts is the way there: rounds may be shorter and as many more, or with `goodput`
longer and fewer, and `rounds` of `local_steps` are a limit of work.
"""

from schemas.jobs import JobRequest


def free_lengths(request: JobRequest) -> bool:
    """Whether rounds may have another number of local steps than `local_steps`: fewer, and with `goodput` also more. Where
    transfers go on beside the steps, only `goodput` knows what another number brings."""
    if request.target_loss is None or request.adaptation == "off":
        return False
    if request.batch == "goodput":
        return request.sync in ("round", "overlap")
    return request.batch != "fixed" and request.sync == "round" and request.local_steps > 1


def most_rounds(request: JobRequest) -> int:
    """Rounds after which a job is over at the latest: a round has one step at least."""
    return request.rounds * request.local_steps if free_lengths(request) else request.rounds

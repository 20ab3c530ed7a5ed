"""How long a job's rounds may be, and how many: one answer for the desk, which ends it, and the batch controller, which
cuts it.

A round of a job that ends by its rounds has as much work as was asked for, whatever the strategy: who counts rounds counts
work. Where a target loss ends it, what counts is the way there: rounds may be shorter and as many more, or with `goodput`
longer and fewer, and `rounds` of `local_steps` are a limit of work.
"""

from schemas.jobs import JobRequest


def free_lengths(request: JobRequest) -> bool:
    """Whether rounds may have another number of local steps than `local_steps`: fewer, and with `goodput` also more."""
    moves = request.batch != "fixed" and request.adaptation != "off" and request.target_loss is not None
    return moves and request.sync == "round" and (request.local_steps > 1 or request.batch == "goodput")


def most_rounds(request: JobRequest) -> int:
    """Rounds after which a job is over at the latest: a round has one step at least."""
    return request.rounds * request.local_steps if free_lengths(request) else request.rounds

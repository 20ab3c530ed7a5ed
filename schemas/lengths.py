"""How many rounds a job may take: the same answer for the desk, which ends it, and the batch controller, which cuts it.

A round of a job that ends by its rounds has as many local steps as were asked for. Where a target loss ends it, what counts
is the way there, and rounds are a limit of work: they may be shorter, and as many more.
"""

from schemas.jobs import JobRequest


def may_shorten(request: JobRequest) -> bool:
    """Whether rounds may have fewer local steps than `local_steps`. `goodput` chooses its lengths by itself."""
    moves = request.batch in ("latency", "throughput", "hybrid") and request.adaptation != "off"
    return moves and request.target_loss is not None and request.sync == "round" and request.local_steps > 1


def most_rounds(request: JobRequest) -> int:
    """Rounds after which a job is over at the latest: a round has one step at least."""
    return request.rounds * request.local_steps if may_shorten(request) else request.rounds

"""A node that begins late in a round takes fewer steps, so that nobody waits for it.

Steps for a round can begin once it is open and its anchor is here. A node that is still busy then, with a validation, a
round whose deadline it missed or one that was to be longer, has lost that time. With a whole share of steps it would be
late again, or the others would wait for it; with what fits into the rest it is in time, and in step with them from then on.

Where a step more would end after the others' last by a part x of its time, all K nodes lose x of a step; without it this
one loses 1 - x. So it is taken while K x is at most 1 - x.
"""

from agents.trainer.state import TrainerState
from schemas.training import Share


def steps(state: TrainerState, share: Share, round_: int, now: float) -> int:
    """Steps to take for a round that is begun `now`: those of the share, less what would have been taken by now, or until
    the validation is done that comes before them.

    All of them where nobody waits for the node, where all are to do equal work (`batch = "fixed"`), where further steps go
    with them anyway (`sync = "overlap"`), and as long as no step was timed.
    """
    request, nodes = state.request, len(state.roster.nodes) if state.roster is not None else 0
    if request is None or request.batch == "fixed" or state.overlaps or share.every > 1 or nodes < 2:
        return share.local_steps
    step_seconds = state.sample_seconds * share.microbatch
    if step_seconds <= 0:
        return share.local_steps
    late = now - state.due_since if state.opened == round_ else 0.0
    late += state.validations.left(now)
    return max(1, share.local_steps - int(late / step_seconds + 1.0 - 1.0 / (nodes + 1)))

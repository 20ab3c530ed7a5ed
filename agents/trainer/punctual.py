"""A node that begins late in a round takes fewer steps, so that nobody waits for it.

Steps for a round can begin once it is open and its anchor is here. A node that is still busy then, with a round whose
deadline it missed or with one that was to be longer, has lost that time. With a whole share of steps it would be late
again, or the others would wait for it; with what fits into the rest it is in time, and in step with them from then on.
"""

from agents.trainer.state import TrainerState
from schemas.training import Share


def steps(state: TrainerState, share: Share, round_: int, now: float) -> int:
    """Steps to take for a round that is begun `now`: those of the share, less what would have been taken by now.

    All of them where nobody waits for the node, where all are to do equal work (`batch = "fixed"`), where further steps go
    with them anyway (`sync = "overlap"`), and as long as no step was timed.
    """
    request = state.request
    if request is None or request.batch == "fixed" or state.overlaps or share.every > 1 or state.opened != round_:
        return share.local_steps
    step_seconds = state.sample_seconds * share.microbatch
    if step_seconds <= 0:
        return share.local_steps
    return max(1, share.local_steps - int((now - state.due_since) / step_seconds))

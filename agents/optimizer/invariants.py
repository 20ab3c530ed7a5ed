"""What must hold of the optimizer's state after every event."""

from collections.abc import Iterator

from agents.optimizer.state import OptimizerState, Run
from agents.optimizer.trial import ROUNDS, SNAPSHOTS
from agents.optimizer.turns import KEPT as TURNS
from schemas.ids import JobId


def broken(state: OptimizerState, kept: int, links_kept: int) -> Iterator[str]:
    """Each invariant that doesn't hold, in words."""
    if (
        len(state.ended) > kept
        or len(state.unclaimed) > kept
        or len(state.links) > links_kept
        or len(state.seen) > links_kept
    ):
        yield "a table has grown too long"
    if any(usage.total < 0 for usage in state.usage.values()):
        yield "an agent used less than nothing"
    for name, run in state.runs.items():
        yield from _broken_in(name, run)


def _broken_in(name: JobId, run: Run) -> Iterator[str]:
    if len(run.seen) > ROUNDS or len(run.validated) > ROUNDS or len(run.snapshots) > SNAPSHOTS:
        yield f"{name}: more is remembered than should be"
    numbers = [seen.round for seen in run.seen]
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > run.round):
        yield f"{name}: rounds out of order: {numbers}"
    if run.trial_since is not None and (not run.snapshots or run.trial_since > run.round):
        yield f"{name}: a change is watched with nothing to compare it with"
    if run.rollback_to is not None and run.rollback_to > run.assignment:
        yield f"{name}: goes back to assignment {run.rollback_to}, which isn't there yet"
    turns = run.plans.turns
    if len(turns) > TURNS or any(not turn.closed for turn in turns[:-1]) or any(turn.useful <= 0 for turn in turns[:-1]):
        yield f"{name}: turns of foresight that say nothing are remembered"
    if turns and not turns[-1].closed and turns[-1].acting is not run.plans.acting:
        yield f"{name}: the turn that is open is another's"
    if not run.plans.told <= run.plans.judged:
        yield f"{name}: more was told of forecasts than was judged"
    if run.state.ended:
        yield f"{name} has ended and is still remembered"
    said = run.said
    if said is None:
        return
    if said.factor < 1 or (said.factor > 1 and not said.adapt):
        yield f"{name}: factor {said.factor} with adapt {said.adapt}"
    still = said.phase in ("warm_up", "completed") or said.policy == "off"
    if said.adapt and (still or said.rollback_to is not None):
        yield f"{name}: adaptation in {said.phase}, policy {said.policy}, rollback to {said.rollback_to}"

"""What adaptation is allowed: by phase, by policy, and by what happened lately."""

import msgspec

from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import Phase, Run
from agents.optimizer.trend import is_flat, moves

NO_CHANGE = 1.0
MOST_DOUBLINGS = 3


class Permission(msgspec.Struct, frozen=True):
    """How much adaptation is allowed now, and why."""

    adapt: bool
    factor: float
    reason: str


def permission(run: Run, settings: OptimizerSettings) -> Permission:
    """What a job's adapting agents may do now."""
    forbidden = _forbidden(run)
    if forbidden:
        return Permission(False, NO_CHANGE, forbidden)
    if run.phase == "initialisation":
        return Permission(True, settings.initial_factor, "first shares are fitted to what nodes and links turn out to be")
    opened = run.round < run.open_until
    if run.phase == "convergence":
        if opened and run.policy != "conservative":
            return Permission(True, settings.convergence_factor, f"converging, but {run.event}")
        return Permission(False, NO_CHANGE, "the loss hardly falls any more: no change is worth its cost")
    if run.policy == "aggressive":
        return Permission(True, settings.aggressive_factor, "aggressive: every round may change a lot")
    if run.policy == "conservative":
        if run.round - run.changed_at < settings.conservative_hold:
            return Permission(False, NO_CHANGE, "conservative: the last change is given time")
        return Permission(True, settings.conservative_factor, "conservative: one change, then a pause")
    if opened:
        return Permission(True, settings.reactive_factor, f"{run.policy}: {run.event}")
    quiet = f"{run.policy}: nothing happened lately, only drift is followed"
    return Permission(True, settings.reactive_quiet_factor, quiet)


def _forbidden(run: Run) -> str:
    """Why nothing may change at all; empty where something may."""
    if run.phase == "completed":
        return "the job is done"
    if run.policy == "off":
        return "the job asked for no adaptation"
    if run.phase == "warm_up":
        return "measuring first"
    if run.round < run.cooling_until:
        return f"cooling down after a rollback, until round {run.cooling_until}"
    if run.round < run.resting_until:
        return f"adaptation costs too much and rests until round {run.resting_until}"
    return ""


def warm_up_rounds(rounds: int, settings: OptimizerSettings) -> int:
    """Rounds of warm-up: those set, but no more than a fifth of a short job."""
    return min(settings.warm_up_rounds, max(1, rounds // 5))


def cooldown(rollbacks: int, settings: OptimizerSettings) -> int:
    """Rounds without adaptation after the `rollbacks`-th rollback: doubling, up to 8 times."""
    return int(settings.cooldown * 2 ** min(max(rollbacks - 1, 0), MOST_DOUBLINGS))


def next_phase(run: Run, settings: OptimizerSettings) -> Phase:
    """The phase after a round has closed; counts confirmations of a flat loss in `run`."""
    if run.phase in ("initialisation", "warm_up"):
        done = run.round - run.first_round
        return "adaptive" if done >= warm_up_rounds(run.rounds, settings) else "warm_up"
    if run.phase == "completed":
        return "completed"
    series = run.validated if len(run.validated) >= settings.slope_window else run.seen
    losses = [seen.loss for seen in series]
    if run.phase == "convergence":
        return "adaptive" if moves(losses, settings.slope_window, settings.flat) else "convergence"
    run.flat_rounds = run.flat_rounds + 1 if is_flat(losses, settings.slope_window, settings.flat) else 0
    return "convergence" if run.flat_rounds >= settings.flat_confirmations else "adaptive"

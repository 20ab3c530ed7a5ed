"""Watching changes of configuration: what they are compared with, and what the verdict leads to."""

from agents.optimizer.policy import cooldown
from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import RoundSeen, Run, Snapshot
from agents.optimizer.verdict import margin, snapshot, worse

# Configurations remembered under one set of conditions: more than a job tries before something changes.
SNAPSHOTS = 8
# Rounds remembered: what the slope test looks at (three windows of 8), and more where the windows are set longer.
ROUNDS = 72


def remember(rounds: list[RoundSeen], seen: RoundSeen) -> None:
    """Append a round; the oldest gives way."""
    rounds.append(seen)
    del rounds[:-ROUNDS]


def disturb(run: Run, what: str, settings: OptimizerSettings) -> None:
    """Nodes or links changed: what was measured before doesn't compare, and no configuration is to blame for what follows.

    It also ends a cooldown, since the configuration gone back to was the better one under other conditions.
    """
    run.snapshots, run.trial_since = [], None
    run.since = run.round + 1
    run.cooling_until, run.rollback_to = -1, None
    open_window(run, what, settings)


def open_window(run: Run, what: str, settings: OptimizerSettings) -> None:
    """Let a job adapt more strongly for a few rounds."""
    run.open_until, run.event = run.round + settings.reactive_window, what


def begin(run: Run, previous: int, settings: OptimizerSettings) -> None:
    """The configuration was changed by choice, from version `previous`: watch what comes of it.

    Changes that follow before the verdict are judged with it. The first round after a change is a mixture of both
    configurations and doesn't count.
    """
    run.changed_at = run.round
    if run.trial_since is not None:
        return
    rounds = [seen for seen in run.seen if seen.round > run.since][-settings.baseline_rounds :]
    if len(rounds) < 2:
        return
    run.snapshots = [*run.snapshots[-(SNAPSHOTS - 1) :], snapshot(previous, rounds)]
    run.trial_since = run.round
    run.since = run.round + 1


def best(run: Run) -> Snapshot | None:
    """The best configuration seen under the present conditions; the newest of equals."""
    return max(reversed(run.snapshots), key=lambda seen: seen.rate, default=None)


def judge(run: Run, settings: OptimizerSettings) -> tuple[int, str] | None:
    """The verdict on the change being watched, once there are rounds enough: (version to go back to, why), or None.

    Compared with the best configuration, not with the last: many small losses are seen, too. A change that paid keeps
    the window for adaptation open.
    """
    if run.trial_since is None:
        return None
    rounds = [seen for seen in run.seen if seen.round > run.trial_since + 1][-settings.verdict_rounds :]
    reference = best(run)
    if len(rounds) < settings.verdict_rounds or reference is None:
        return None
    before = [seen.loss for seen in run.seen if seen.round <= run.trial_since][-settings.baseline_rounds :]
    why = worse(reference, before, rounds, settings)
    run.trial_since = None
    if not why:
        run.rollbacks = max(run.rollbacks - 1, 0)
        after = snapshot(run.assignment, rounds)
        if after.rate > reference.rate + margin(reference, settings):
            open_window(run, "the last change paid", settings)
        return None
    run.rollbacks = min(run.rollbacks + 1, 32)
    run.cooling_until = run.round + cooldown(run.rollbacks, settings)
    run.rollback_to = reference.version
    run.since = run.round + 1
    return reference.version, why


def drift(run: Run, settings: OptimizerSettings) -> str:
    """Why a job that nothing was changed in is slower than it was; empty where it isn't. Measures afresh from there."""
    rounds = [seen for seen in run.seen if seen.round > run.since]
    late = rounds[-settings.verdict_rounds :]
    early = rounds[: -settings.verdict_rounds][-settings.baseline_rounds :]
    if run.trial_since is not None or len(early) < 2 or run.round < run.cooling_until:
        return ""
    why = worse(snapshot(run.assignment, early), [seen.loss for seen in early], late, settings)
    if why:
        run.since = run.round - settings.verdict_rounds
        run.snapshots = []
    return why

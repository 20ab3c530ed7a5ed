"""`shoal replay --policy`: what another policy would have decided, for people."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from runners.cli.common import EXIT_USAGE, console, fail, print_json

if TYPE_CHECKING:
    from runners.supposed_time import Time
    from runners.supposing import Decision, Supposed

# Decisions of either side that are shown; `--json` has all that were kept.
SHOWN = 5
UNKNOWN = (
    "not known: what a microbatch takes that no node had, what other nodes, reducers and the optimizer would have made of "
    "it, and whether the loss had fallen as far"
)


def show(run: Path, agent: str | None, policy: list[str], as_json: bool) -> None:
    """Suppose another policy, and tell what would have been."""
    from runners.replaying import journals_in
    from runners.supposing import AGENT, policy_of, suppose

    if agent not in (None, AGENT):
        fail(f"--policy is about the {AGENT}'s decisions: leave --agent {agent} out", EXIT_USAGE)
    supposed = suppose(journals_in(run, AGENT)[AGENT], run, policy_of(policy))
    if as_json:
        print_json(supposed)
        return
    for line in _lines(supposed, " ".join(policy)):
        console.print(line, markup=False, soft_wrap=True)


def _lines(supposed: "Supposed", policy: str) -> list[str]:
    span = f"{_clock(supposed.since)} to {_clock(supposed.until)}, {supposed.inputs} inputs"
    lines = [f"supposed   {policy}, {span}", *_decisions("decided", supposed.decided)]
    lines += _decisions("would have", supposed.would_decide)
    for job, found in supposed.times.items():
        lines += _time(job, found)
    return [*lines, UNKNOWN]


def _decisions(what: str, all_: "list[Decision]") -> list[str]:
    lines = [f"{what:10} {len(all_)} assignments{', the last of them:' if len(all_) > SHOWN else ''}"]
    return lines + [f"  {_clock(each.at)} {each.job} {each.version}: {each.reason}" for each in all_[-SHOWN:]]


def _time(job: str, found: "Time") -> list[str]:
    rounds = f"{found.rounds} rounds"
    if found.left_out:
        rounds += f" ({found.left_out} more went otherwise than any shares account for, or their nodes changed)"
    if found.same:
        return [f"{job}: everybody would have done the same in {rounds}"]
    if found.supposed is None or found.low is None or found.high is None:
        return [f"{job}: too few rounds to predict a time from: {rounds}"]
    low, high = (100 * (bound / found.seconds - 1) for bound in (found.low, found.high))
    change = 100 * (found.supposed / found.seconds - 1)
    verdict = "slower" if low > 0 else "faster" if high < 0 else "can't be told from what was"
    return [
        f"{job}: {found.seconds:.1f} s for {rounds}; predicted {found.supposed:.1f} s for the same progress: "
        f"{change:+.0f} % ({low:+.0f} to {high:+.0f} %): {verdict}",
        f"  the model was off by {100 * found.model_error:.0f} % of a round in the median; "
        f"{100 * found.guessed:.0f} % of the supposed shares have a microbatch or an encoding that was not measured there",
    ]


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))

"""What another assignment would have meant for a job's time, from its rounds, with an interval.

A round took T seconds. The controller's model says M for the shares that were in force and M' for those that might have
been, both from what was measured when the round closed. What the model leaves out (closing, pauses, validations) is there
either way, so such a round is taken to be T + k (M' - M), k being what rounds took over what the model said of them. No
round lasts longer than its deadline, and nobody waits for a node that takes longer: it contributes every few rounds, late.
Rounds of other shares do other work; times are compared for as much progress as was made, by the model of strategy
`goodput`.

The interval holds 90 % of 400 draws: rounds in blocks (`agents.appraiser.appraisal` says why), and for each draw one k of a
single round, for all rounds of the draw alike: if the model is wrong on shares that nobody had, it is so in every round.
How much further off predictions were, where another run showed what came of them, is added (`OFF`, `GUESSED_OFF`).
"""

import math
import random
from collections.abc import Sequence

import msgspec

from agents.batch_controller import goodput, inside, noise
from agents.batch_controller.goodput import Part
from agents.batch_controller.planner import Plan, Planner
from agents.batch_controller.state import Job

DRAWS = 400
TAIL = 0.05
"""Left out on either side."""
LEAST_ROUNDS = 8
"""Before anything is predicted: the bootstrap of fewer is far too narrow."""
OFF = 0.15
"""Part by which intervals are wider at either end than rounds make them, by `python -m benchmarks.supposing`: other
rosters, reducers and averages come of other shares."""
GUESSED_OFF = 1.0
"""The same where all shares are guessed (`Pair.guessed`): those of `fixed`, which sends float32, were off by 1.5 to 2.7."""
LEAST_PART = 0.05
"""Of a round's time that is left of it whatever is supposed: more than that no other shares have been seen to save."""
ASTRAY = 3.0
"""Factor between a round's time and the model's from which something else happened in it that no shares account for: a node
that was lost, an outage, a first round before anything was measured."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A round as it was, and as it might have been. Seconds, and progress in steps (`goodput.progress`)."""

    seconds: float
    model: float
    supposed: float
    progress: float
    supposed_progress: float
    guessed: float
    """Part of the supposed shares whose microbatch had never been measured on their nodes, or that travel in another
    encoding: times are extrapolated."""


class Time(msgspec.Struct, frozen=True, kw_only=True):
    """A job's time, and what it might have been."""

    rounds: int
    """That were compared."""
    left_out: int
    """Whose nodes changed while they went on, or that took more than three times as long as the model says, or as short."""
    seconds: float
    """That they took."""
    progress: float
    """That they made, in steps (`goodput.progress`)."""
    same: bool
    """Whether both had everybody do the same in all of them."""
    supposed: float | None = None
    """Seconds for the same progress under the other policy; None where there are too few rounds to say."""
    low: float | None = None
    high: float | None = None
    """Of its 90 % interval."""
    model_error: float = 0.0
    """Part of a round's time by which the model was off, in the median of the rounds that were."""
    guessed: float = 0.0
    """Mean of `Pair.guessed`."""


def paired(job: Job, seconds: float, was: Plan, would: Plan, planner: Planner) -> Pair | None:
    """A round that took so many seconds, with the timed plans of the shares in force and of those supposed; each plan's
    deadline is that of its assignment. None for a round that went astray."""
    scale, apart = noise.scale(job.spread, planner.start), inside.apart(job.inside, planner.roster, math.inf)
    times = [_seconds(plan, job.quorum) for plan in (was, would)]
    if not 1 / ASTRAY < seconds / times[0] < ASTRAY:
        return None
    progress = [goodput.progress(_parts(plan), scale, planner.start, apart) for plan in (was, would)]
    unknown = [
        name
        for name, share in would.shares.items()
        if share.microbatch not in planner.known[name].steps or share.encoding != was.shares[name].encoding
    ]
    return Pair(
        seconds=seconds,
        model=times[0],
        supposed=times[1],
        progress=progress[0],
        supposed_progress=progress[1],
        guessed=len(unknown) / len(would.shares),
    )


def _seconds(plan: Plan, quorum: int) -> float:
    """What a round takes: as long as the slowest who contributes to each and keeps the deadline, if a quorum does."""
    times = [plan.paces[name].time(share.local_steps) for name, share in plan.shares.items() if share.every == 1]
    prompt = [time for time in times if time <= plan.deadline_seconds]
    if len(prompt) == len(times):
        return min(plan.round_seconds, plan.deadline_seconds)
    if not prompt or len(prompt) < quorum:
        return plan.deadline_seconds
    return min(plan.deadline_seconds, plan.round_seconds - max(times) + max(prompt))


def _parts(plan: Plan) -> list[Part]:
    """What everybody adds to a round: with one contribution in so many rounds, it is that much late and counts for less."""
    parts = []
    for name, share in plan.shares.items():
        rounds = max(share.every, math.ceil(plan.paces[name].time(share.local_steps) / plan.deadline_seconds))
        parts.append(Part(share.local_steps / rounds**2, share.microbatch))
    return parts


def predicted(pairs: Sequence[Pair], left_out: int, rng: random.Random) -> Time:
    """What these rounds come to. `rng` draws for the interval."""
    took, progress = sum(pair.seconds for pair in pairs), sum(pair.progress for pair in pairs)
    same = all((pair.model, pair.progress) == (pair.supposed, pair.supposed_progress) for pair in pairs)
    if len(pairs) < LEAST_ROUNDS:
        return Time(rounds=len(pairs), left_out=left_out, seconds=took, progress=progress, same=same)
    errors = sorted(abs(pair.seconds - pair.model) / pair.seconds for pair in pairs)
    guessed = sum(pair.guessed for pair in pairs) / len(pairs)
    wider = 1.0 if same else 1.0 + OFF + GUESSED_OFF * guessed
    drawn = sorted(took * _change(some, k) for some, k in _draws(pairs, rng))
    return Time(
        rounds=len(pairs),
        left_out=left_out,
        seconds=took,
        progress=progress,
        same=same,
        supposed=took * _change(pairs, took / sum(pair.model for pair in pairs)),
        low=drawn[round(TAIL * (DRAWS - 1))] / wider,
        high=drawn[round((1 - TAIL) * (DRAWS - 1))] * wider,
        model_error=errors[len(errors) // 2],
        guessed=guessed,
    )


def _change(pairs: Sequence[Pair], k: float) -> float:
    """Time for the same progress, over the time that it took."""
    might = sum(max(LEAST_PART * pair.seconds, pair.seconds + k * (pair.supposed - pair.model)) for pair in pairs)
    progress = sum(pair.progress for pair in pairs) / max(1e-9, sum(pair.supposed_progress for pair in pairs))
    return might * progress / sum(pair.seconds for pair in pairs)


def _draws(pairs: Sequence[Pair], rng: random.Random) -> list[tuple[list[Pair], float]]:
    """Rounds in blocks that go on with the first after the last, and what one round took over the model's word."""
    count = len(pairs)
    length = max(1, round(math.cbrt(count)))
    drawn = []
    for _ in range(DRAWS):
        starts = [rng.randrange(count) for _ in range(-(-count // length))]
        some = [pairs[(start + place) % count] for start in starts for place in range(length)]
        one = pairs[rng.randrange(count)]
        drawn.append((some, one.seconds / one.model))
    return drawn

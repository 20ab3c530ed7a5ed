"""Which policy does better is measured: where links are foreseen, `proactive` and `reactive` take turns.

What a plan costs shows in no single transfer: a node is still busy with a longer share when a shorter one is ordered,
others wait for it, what comes late counts less. All of it shows in useful samples a second, so these are compared (a
switchback experiment: Bojinov, Simchi-Levi and Zhao, Management Science 69, 2023). In a turn the job acts on forecasts, or
does as `reactive` does. It lasts for whole periods of what recurs, so that both meet the same links; what still comes of
the turn before isn't counted. With x the logarithms of the turns' rates,

    gain = mean of x, acting  -  mean of x, not acting        its standard error = sd x sqrt(1 / acting + 1 / not acting)

sd is that of x within both, with a prior worth `PRIOR` turns. While the gain is less than its standard error the two
alternate; the better one has 2, 4, up to `foresight_turns` turns in a row as it leads by 1, 2, 3 standard errors.
"""

import math

from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import Plans, Turn
from schemas.training import RoundClosed

KEPT = 24
"""Turns remembered: links and nodes don't stay as they are for hours."""

LONGEST = 300.0
"""Seconds of a period that a turn waits for the end of: of a day's pattern, turns of any length see a part."""

PRIOR = 4
"""Turns that the prior standard deviation counts for: as many as there have to be before two of each are known."""


def open_turn(plans: Plans, round_: int) -> None:
    """The next turn begins after this round."""
    plans.turns = [*plans.turns[-(KEPT - 1) :], Turn(acting=plans.acting, after=round_)]


def acts_now(plans: Plans) -> bool:
    """Whether a turn of acting on forecasts is open."""
    return plans.acting and bool(plans.turns) and not plans.turns[-1].closed


def drop_turn(plans: Plans) -> None:
    """Nothing is foreseen any more, so the open turn says nothing."""
    if plans.turns and not plans.turns[-1].closed:
        del plans.turns[-1]


def count(plans: Plans, event: RoundClosed, seconds: float, efficiency: float, settings: OptimizerSettings) -> None:
    """A round has closed, so many seconds after the one before it."""
    turn = plans.turns[-1]
    if plans.acting:
        plans.acted += seconds
    if event.round > turn.after + settings.foresight_settle:
        turn.useful += efficiency * useful(event)
        turn.seconds += seconds


def useful(event: RoundClosed) -> float:
    """A round's samples, late ones counting as the average counts them."""
    if not event.contributions:
        return float(event.samples)
    return sum(part.samples / (1 + part.late) for part in event.contributions)


def over(plans: Plans, period: float, settings: OptimizerSettings) -> bool:
    """Whether the open turn has seen enough: whole periods, and no less than a turn's least time."""
    turn, least = plans.turns[-1], settings.foresight_seconds
    if 0 < period <= LONGEST:
        least = period * math.ceil(least / period)
    return turn.seconds >= least and turn.useful > 0


def gain(plans: Plans, settings: OptimizerSettings) -> tuple[float, float]:
    """Logarithm of the rate of acting over the rate of not acting, and its standard error; (0, infinite) without both."""
    acted, not_acted = (
        [math.log(turn.useful / turn.seconds) for turn in plans.turns if turn.closed and turn.acting is acting]
        for acting in (True, False)
    )
    if not acted or not not_acted:
        return 0.0, math.inf
    means = [math.fsum(rates) / len(rates) for rates in (acted, not_acted)]
    apart = math.fsum((x - mean) ** 2 for rates, mean in zip((acted, not_acted), means, strict=True) for x in rates)
    variance = (PRIOR * settings.foresight_noise**2 + apart) / (PRIOR + len(acted) + len(not_acted) - 2)
    return means[0] - means[1], math.sqrt(variance * (1 / len(acted) + 1 / len(not_acted)))


def acts_next(plans: Plans, settings: OptimizerSettings) -> bool:
    """Whether the next turn acts on forecasts, now that the last one is over."""
    last = plans.turns[-1].acting
    found, error = gain(plans, settings)
    if not math.isfinite(error) or last is not (found > 0):
        return not last
    row = 0
    for turn in reversed(plans.turns):
        if turn.acting is not last:
            break
        row += 1
    most = min(settings.foresight_turns, 1 << min(int(abs(found) / error), 16))
    return last if row < most else not last


def regret(plans: Plans, settings: OptimizerSettings) -> tuple[float, float]:
    """Seconds that acting on forecasts has cost beyond what `reactive` takes for the same samples, and the standard error.

    Acting for T seconds has made what takes `reactive` T x exp(gain).
    """
    found, error = gain(plans, settings)
    if not math.isfinite(error):
        return 0.0, plans.acted
    without = plans.acted * math.exp(found)
    return plans.acted - without, without * error

"""What an operator may set of the optimizer (`[optimizer]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

Rounds = Annotated[int, Meta(ge=1)]
Factor = Annotated[float, Meta(ge=1, le=64)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]


class OptimizerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults. Rounds and fractions unless said otherwise."""

    # Phases
    warm_up_rounds: Rounds = 3
    """Rounds without adaptation: the first has cold caches and connections, and a figure needs two more to be one. A short
    job warms up for a fifth of its rounds."""
    initial_factor: Factor = 64.0
    """Until the first round closes: shares made before anything was measured are guesses, and may change by any factor."""
    slope_window: Annotated[int, Meta(ge=5, le=72)] = 8
    """Rounds over which the loss's slope is measured: with fewer its standard error is too wide to say anything; two
    and three times as many are looked at, too."""
    flat: Fraction = 0.01
    """Relative fall of the loss over the window under which the job has converged: less than that isn't worth a change of
    configuration, which costs a round."""
    flat_confirmations: Rounds = 2
    """Rounds in a row that must say so."""

    # Policies
    conservative_factor: Factor = 2.0
    """One power of two at once..."""
    conservative_hold: Rounds = 4
    """...and then this many rounds to see what came of it."""
    aggressive_factor: Factor = 4.0
    """Two powers of two at once, in every round."""
    reactive_factor: Factor = 2.0
    """After an event."""
    reactive_quiet_factor: Factor = 1.25
    """Between events: steps follow slow drift, microbatches stay."""
    reactive_window: Rounds = 5
    """Rounds for which an event opens it: one to notice, two to change by 4, two to see."""
    convergence_factor: Factor = 1.25
    """In convergence, and only after an event."""

    # Foresight (policy `proactive`)
    foresight_seconds: Annotated[float, Meta(gt=0)] = 90.0
    """Least time that a turn of acting on forecasts, or of not acting, counts for: shorter ones differ too much."""
    foresight_settle: Rounds = 6
    """Rounds of a turn that aren't counted: work ordered in the turn before takes up to two rounds and is late by one, and
    medians of five uploads have half of them from before until three came."""
    foresight_turns: Annotated[int, Meta(ge=1, le=16)] = 8
    """Most turns in a row of the better policy before the other one has one, too: what is worse costs a ninth of itself."""
    foresight_noise: Fraction = 0.04
    """By how much turns of one policy are taken to differ before it is known (standard deviation): rates of a minute did
    by 3 to 5 % in the simulation."""

    # Rollback
    baseline_rounds: Annotated[int, Meta(ge=2)] = 5
    """Rounds before a change that it is compared with."""
    verdict_rounds: Annotated[int, Meta(ge=2)] = 3
    """Rounds after it: one bad round is chance, three are not."""
    degradation: Fraction = 0.1
    """Loss of samples a second that takes a change back, where it is also beyond the noise of the rounds before."""
    noise_factor: Annotated[float, Meta(gt=0)] = 2.0
    """Robust standard deviations that count as noise."""
    cooldown: Rounds = 5
    """Rounds without adaptation after a rollback; doubles with each one, up to 8 times, so that it can't oscillate."""

    # Overhead
    cost_limit: Fraction = 0.05
    """CPU of the adapting agents, as a fraction of one core, above which adaptation steps back."""
    cost_every: Rounds = 5
    """Rounds between two looks at the cost."""
    cost_least_seconds: Annotated[float, Meta(gt=0)] = 10.0
    """No verdict on less wall time than this: agents report their usage every few seconds only."""
    cost_pause: Rounds = 10
    """Rounds for which adaptation then rests."""

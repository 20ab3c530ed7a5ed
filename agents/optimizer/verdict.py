"""Whether a change of configuration made a job worse."""

from collections.abc import Sequence
from statistics import median

from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import RoundSeen, Snapshot
from agents.optimizer.trend import fall

# Scales the median absolute deviation to a standard deviation (Iglewicz and Hoaglin, 1993).
MAD_TO_STD = 1.4826


def robust(values: Sequence[float]) -> tuple[float, float]:
    """Median and robust standard deviation; one stalled round moves neither."""
    middle = median(values)
    return middle, MAD_TO_STD * median(abs(value - middle) for value in values)


def progress(rounds: Sequence[RoundSeen]) -> float:
    """Fall of the loss per second from the first to the last of these rounds."""
    seconds = sum(seen.seconds for seen in rounds[1:])
    return (rounds[0].loss - rounds[-1].loss) / seconds if seconds > 0 else 0.0


def snapshot(version: int, rounds: Sequence[RoundSeen]) -> Snapshot:
    """A configuration with what was seen of it in `rounds` (at least one)."""
    rate, noise = robust([seen.rate for seen in rounds])
    return Snapshot(
        version=version,
        rounds=len(rounds),
        rate=rate,
        noise=noise,
        progress=progress(rounds),
    )


def margin(base: Snapshot, settings: OptimizerSettings) -> float:
    """Samples a second by which another configuration must differ from `base` to be worse or better."""
    return max(settings.degradation * base.rate, settings.noise_factor * base.noise)


def worse(base: Snapshot, before: Sequence[float], rounds: Sequence[RoundSeen], settings: OptimizerSettings) -> str:
    """Why a configuration is worse than `base`, or nothing where it isn't.

    Two things count: samples a second under the base's by more than a margin and more than its noise; and a loss that
    surely rises where it did not before (`before`: losses under the base). Slower progress alone says nothing: losses fall
    ever more slowly, whatever the configuration.
    """
    rate, _ = robust([seen.rate for seen in rounds])
    if rate < base.rate - margin(base, settings):
        return f"{rate:.1f} samples/s against {base.rate:.1f} before"
    after, until = fall([seen.loss for seen in rounds], len(rounds)), fall(before, len(rounds))
    rises = after is not None and after.most < -settings.degradation
    rose = until is not None and until.likely < -settings.degradation
    if rises and not rose:
        return f"the loss rises, from {rounds[0].loss:.4g} to {rounds[-1].loss:.4g}"
    return ""

"""How many samples a step takes: three strategies that share one rule of motion.

Each node's microbatch moves on the ladder of powers of two, a rung at a time. Two voices rate a move, -1 to 1:

- latency: towards `asked x (1 + round trip / 100 ms)`: the longer a round trip, the more work should lie between two;
  a first rung beyond the target is all the same to it, so that throughput may try;
- throughput: hill climbing on measured samples/s: go on upwards while it improves, turn when it degrades.

A move needs `pressure`, the weighted sum: `latency` weighs 1 and 0, `throughput` 0 and 1, `hybrid` 0.6 and 0.4. With fixed
measurements no two rungs can each be preferred to the other, so nothing swings.

`hybrid` counts what a step teaches, too: the round trip, paid once a round, is shared by the steps between two, and a
larger microbatch must bring so many samples a second more that the fewer steps are made up for.
"""

import math

from agents.batch_controller.settings import BatchControllerSettings
from schemas.jobs import BatchStrategy


def power_of_two_below(value: int) -> int:
    """The largest power of two that is at most `value`."""
    return 1 << (value.bit_length() - 1)


def bounds(least: int, most: int) -> tuple[int, int]:
    """Powers of two within the bounds; where there are none, the one just below both."""
    low = 1 << (least - 1).bit_length()
    high = power_of_two_below(most)
    return (low, high) if low <= high else (high, high)


def first(asked: int, low: int, high: int) -> int:
    """Where to start: at what was asked, on the ladder and within its bounds."""
    return min(high, max(low, power_of_two_below(asked)))


def latency_target(asked: int, latency_ms: float, settings: BatchControllerSettings) -> int:
    """The microbatch that a round trip calls for: the power of two nearest to asked x (1 + latency / step)."""
    doublings = round(math.log2(1.0 + max(0.0, latency_ms) / settings.latency_step_ms))
    return asked << doublings


def latency_vote(present: int, move: int, target: int) -> float:
    """1 towards the target, 0 for the first rung beyond it, -1 for more."""
    here, there = abs(math.log2(present / target)), abs(math.log2(move / target))
    if there < here:
        return 1.0
    return 0.0 if there <= 1.0 else -1.0


def throughput_vote(present: int, move: int, measured: dict[int, float], gain: float) -> float:
    """1 where a move is known to gain, or is the next rung of a climb; -1 where it is known to lose; else 0."""
    here, there = measured.get(present), measured.get(move)
    if here is None:
        return 0.0
    if there is not None:
        if there >= here * (1 + gain):
            return 1.0
        return -1.0 if here >= there * (1 + gain) else 0.0
    behind = measured.get(present // 2)
    climbing = move > present and (behind is None or here >= behind * (1 + gain))
    return 1.0 if climbing else 0.0


def gain(strategy: BatchStrategy, settings: BatchControllerSettings) -> float:
    """Change of samples/s that a doubled or halved microbatch has to be worth."""
    return settings.hybrid_gain if strategy == "hybrid" else settings.gain


def weights(strategy: BatchStrategy, settings: BatchControllerSettings) -> tuple[float, float]:
    """What latency and throughput have to say."""
    if strategy == "hybrid":
        return settings.latency_weight, 1.0 - settings.latency_weight
    return {"latency": (1.0, 0.0), "throughput": (0.0, 1.0)}.get(strategy, (0.0, 0.0))


def next_rung(
    strategy: BatchStrategy,
    present: int,
    target: int,
    measured: dict[int, float],
    limits: tuple[int, int],
    settings: BatchControllerSettings,
) -> int:
    """The microbatch after this look: one rung up, one down, or the present one."""
    low, high = limits
    by_latency, by_throughput = weights(strategy, settings)
    best, best_pressure = present, settings.pressure
    for move in (present // 2, present * 2):
        if not low <= move <= high:
            continue
        pressure = by_latency * latency_vote(present, move, target)
        pressure += by_throughput * throughput_vote(present, move, measured, gain(strategy, settings))
        if pressure >= best_pressure:
            best, best_pressure = move, pressure
    return best

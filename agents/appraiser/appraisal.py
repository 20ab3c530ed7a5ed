"""What each node is worth, from the rounds that were seen, with an interval.

For a node, of the rounds that it was a member of: useful samples a second as they were, and as they would have been without
it (`rounds.without`). The interval is that of a block bootstrap over rounds (Künsch, "The jackknife and the bootstrap for
general stationary observations", Annals of Statistics 17(3), 1989; circular as in Politis and Romano, 1992): rounds next to
each other resemble each other, since links have moods, so they are drawn in blocks of the cube root of their number. That
says how much the rounds vary; how wrong the model itself is was measured, and is added (`MODEL_ERROR`).
"""

import math
import random
from collections.abc import Callable, Sequence

import msgspec

from agents.appraiser import rounds as model
from agents.appraiser.rounds import RoundSeen
from schemas.appraisal import NodeValue, Verdict
from schemas.ids import NodeId

DRAWS = 200
"""Of rounds: the 5 % and 95 % points then vary by some tenth of the interval's width from one appraisal to the next."""
TAIL = 0.05
"""Left out on either side: a 90 % interval."""
LEAST_ROUNDS = 8
"""Rounds of a node before anything is said of it: the bootstrap of fewer is far too narrow."""
MODEL_ERROR = 0.02
"""Part of the job's speed by which intervals are wider at either end than rounds alone make them: how far the model is off
in the median, by `python -m benchmarks.appraisal`."""


class Appraisal(msgspec.Struct, frozen=True, kw_only=True):
    """A job's rounds, and what each node is worth."""

    rounds: int
    samples_per_second: float
    """Useful ones."""
    low: float
    """Of its 90 % interval."""
    high: float
    nodes: tuple[NodeValue, ...]
    """By name."""


class _Pair(msgspec.Struct, frozen=True):
    """A round with and without a node."""

    seconds: float
    samples: float
    seconds_without: float
    samples_without: float


_Samples = Callable[[Sequence[_Pair]], list[_Pair]]
"""Totals that might have been, from rounds with and without a node."""
_Known = tuple[RoundSeen, model.Whole, float]
"""A round, what it comes to with everybody, and its useful samples."""


def appraise(seen: Sequence[RoundSeen], rng: random.Random, least: int = LEAST_ROUNDS) -> Appraisal:
    """What the nodes of the last of these rounds are worth. `rng` draws rounds for the intervals."""
    drawn: dict[int, list[list[int]]] = {}

    def resampled(pairs: Sequence[_Pair]) -> list[_Pair]:
        count = len(pairs)
        if count not in drawn:  # the same for all nodes of as many rounds, so that they can be compared
            drawn[count] = _blocks(count, rng)
        return _resampled(pairs, drawn[count])

    return _appraise(seen, resampled, least)


def appraise_possible(possible: Sequence[RoundSeen], each: int) -> Appraisal:
    """The same of jobs that may be, each of so many rounds: the interval is that of the jobs' own values."""

    def jobs(pairs: Sequence[_Pair]) -> list[_Pair]:
        return [_total(pairs[first : first + each]) for first in range(0, len(pairs), each)]

    return _appraise(possible, jobs, 1)


def _appraise(seen: Sequence[RoundSeen], samples: _Samples, least: int) -> Appraisal:
    names = seen[-1].members if seen else ()
    wholes = [(each, model.whole(each), model.useful(each)) for each in seen]
    values = tuple(_value(name, wholes, samples, least) for name in sorted(names))
    everything = [_Pair(each.seconds, model.useful(each), 1.0, 0.0) for each in seen]
    speeds = sorted(_speed(sample) for sample in samples(everything)) if seen else [0.0]
    return Appraisal(
        rounds=len(seen),
        samples_per_second=_speed(_total(everything)),
        low=_point(speeds, TAIL),
        high=_point(speeds, 1 - TAIL),
        nodes=values,
    )


def _value(name: NodeId, seen: Sequence[_Known], samples: _Samples, least: int) -> NodeValue:
    mine = [known for known in seen if name in known[0].members]
    if len(mine) < least:
        return NodeValue(node=name, verdict="early", rounds=len(mine))
    pairs = _pairs(mine, name)
    whole = _total(pairs)
    adds, changes = [], []
    for sample in samples(pairs):
        adds.append(_speed(sample) - _speed_without(sample))
        changes.append(_change(sample))
    adds.sort()
    changes.sort()
    low, high = _point(changes, TAIL) - MODEL_ERROR, _point(changes, 1 - TAIL) + MODEL_ERROR
    margin = MODEL_ERROR * _speed(whole)
    return NodeValue(
        node=name,
        verdict=_verdict(low, high),
        rounds=len(mine),
        samples_per_second=_speed(whole) - _speed_without(whole),
        low=_point(adds, TAIL) - margin,
        high=_point(adds, 1 - TAIL) + margin,
        without=_change(whole),
        without_low=max(-1.0, low),
        without_high=high,
    )


def _pairs(mine: Sequence[_Known], name: NodeId) -> list[_Pair]:
    reduces = any(each.reducer == name for each, _, _ in mine)
    elsewhere = model.elsewhere([(each, whole) for each, whole, _ in mine], name) if reduces else None
    others = [model.without(each, name, whole, elsewhere) for each, whole, _ in mine]
    seconds = sum(each.seconds for each, _, _ in mine)
    left = sum(other.seconds for other in others)
    shorter = seconds / left if seconds > 0 and left > 0 else 1.0
    return [
        _Pair(each.seconds, useful, other.seconds, other.samples + model.late_samples(other.late, shorter))
        for (each, _, useful), other in zip(mine, others, strict=True)
    ]


def _verdict(low: float, high: float) -> Verdict:
    if high < 0:
        return "helps"
    return "hinders" if low > 0 else "unclear"


def _total(pairs: Sequence[_Pair]) -> _Pair:
    return _Pair(
        sum(pair.seconds for pair in pairs),
        sum(pair.samples for pair in pairs),
        sum(pair.seconds_without for pair in pairs),
        sum(pair.samples_without for pair in pairs),
    )


def _speed(pair: _Pair) -> float:
    return pair.samples / pair.seconds if pair.seconds > 0 else 0.0


def _speed_without(pair: _Pair) -> float:
    return pair.samples_without / pair.seconds_without if pair.seconds_without > 0 else 0.0


def _change(pair: _Pair) -> float:
    speed = _speed(pair)
    return _speed_without(pair) / speed - 1.0 if speed > 0 else 0.0


# The bootstrap.


def _blocks(count: int, rng: random.Random) -> list[list[int]]:
    """For each draw of so many rounds, where its blocks begin."""
    blocks = -(-count // _length(count))
    return [[rng.randrange(count) for _ in range(blocks)] for _ in range(DRAWS)]


def _length(count: int) -> int:
    """Rounds of a block."""
    return max(1, round(math.cbrt(count)))


def _resampled(pairs: Sequence[_Pair], draws: list[list[int]]) -> list[_Pair]:
    """The total of each draw; a block that reaches the last round goes on with the first."""
    length = _length(len(pairs))
    columns = zip(*map(msgspec.structs.astuple, pairs), strict=True)
    blocks = [_sums(column, length) for column in columns]
    return [_Pair(*(sum(map(block.__getitem__, starts)) for block in blocks)) for starts in draws]


def _sums(column: Sequence[float], length: int) -> list[float]:
    """The sum of each block, by its first round."""
    return [sum(column[(first + i) % len(column)] for i in range(length)) for first in range(len(column))]


def _point(ordered: Sequence[float], part: float) -> float:
    """The value under which that part of the ordered values is."""
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]

"""Shares with `sync = "step"`: one gradient a round from each node, of as many samples as its speed allows.

The fastest node takes the microbatch that was asked for and sets the round; the others take the largest power of two that
they finish with it, at least the smallest allowed. No strategy climbs from there: with a larger microbatch the job would be
a machine with another batch. A node whose transfers take most of a round gets what its processor can do, and comes late.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from agents.batch_controller.rounds import LEAST_ROOM, Pace
from schemas.ids import NodeId

OVERRUN = 1.25
"""Factor over a round that a step may take before its microbatch is halved; it is doubled only within the round itself, so
that measurements must be off by a quarter for it to swing."""

WORTH_WAITING = 2.0
"""Factor over the time of a quorum up to which others are waited for; with a node that takes longer, all would make fewer
than half of the steps, for one gradient more in each."""


def round_time(asked: Mapping[NodeId, Pace], least: Mapping[NodeId, Pace], quorum: int) -> float:
    """Seconds a round should take, from paces with the microbatch asked for and with the smallest one.

    The fastest node's time for what was asked, and enough for a quorum to be in it.
    """
    fastest = min(pace.time(1) for pace in asked.values())
    times = sorted(pace.time(1) for pace in least.values())
    return max(fastest, times[min(len(times), max(1, quorum)) - 1])


def room(pace: Pace, seconds: float, alone: float) -> float:
    """Seconds for a node's step in a round; where transfers leave hardly any, `alone`, the fastest node's own step."""
    left = seconds - pace.up - pace.down
    return left if left > LEAST_ROOM * seconds else alone


def microbatch(
    present: int | None, step: Callable[[int], float], within: float, rungs: Iterable[int], factor: float
) -> int:
    """The power of two, of `rungs`, that a node computes `within` so many seconds; `step` gives seconds by size.

    From `present` it moves by `factor` at most.
    """
    sizes = sorted(rungs)
    if present is None:
        return max((size for size in sizes if step(size) <= OVERRUN * within), default=sizes[0])
    size = min(max(present, sizes[0]), sizes[-1])
    for _ in range(math.floor(math.log2(factor))):
        if 2 * size in sizes and step(2 * size) <= within:
            size *= 2
        elif size // 2 in sizes and step(size) > OVERRUN * within:
            size //= 2
    return size


def prompt(times: Mapping[NodeId, float], quorum: int) -> list[NodeId]:
    """The nodes that a round's deadline is made for: a quorum, and who takes not much longer."""
    enough = sorted(times.values())[min(len(times), max(1, quorum)) - 1]
    return [name for name, seconds in times.items() if seconds <= WORTH_WAITING * enough]

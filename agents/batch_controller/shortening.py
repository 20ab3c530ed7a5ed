"""How many local steps a round has where it may have fewer than were asked for: as many as get most done.

What a round costs beside its steps is shared by them, so that more steps between two averages make more samples a second.
But H steps between two averages teach less than H with one between: some 1 / (1 + k (H - 1)) of that. What all nodes'
counted steps come to in a second, times this, is largest at a few steps where links are cheap, and at as many as the user
asked for where they aren't. With nodes alike, s seconds a step and c for a round's rest, it is largest at sqrt(c / (s k)),
and flat around that.
"""

from collections.abc import Mapping

from agents.batch_controller import rounds
from agents.batch_controller.rounds import Pace
from agents.batch_controller.settings import BatchControllerSettings
from schemas.ids import NodeId

STEP_COST = 0.025
"""Of a step's worth, for each further step between two averages: 3 and 10 steps instead of one cost a language model of a
million parameters 2 and 22 % more steps, with Adam; 6 and 10 cost the demo's 2.4 and 4.5 % of its loss."""

GAIN = 0.03
"""For which the number is changed: a round or two of learning anew what nodes take, of some hundred."""

LEAST_ROUNDS = 2
"""Rounds that must have closed: the first has cold caches and a deadline of its own."""


def efficiency(steps: float) -> float:
    """Of a sample where so many steps are taken between two averages, over one where an average follows each step."""
    return 1.0 / (1.0 + STEP_COST * (max(1.0, steps) - 1.0))


def ladder(asked: int) -> list[int]:
    """Numbers of steps that are weighed: all up to 5, then about a fifth apart."""
    found, steps = [], 1
    while steps < asked:
        found.append(steps)
        steps = max(steps + 1, round(steps * 1.2))
    return [*found, asked]


def done_a_second(
    steps: int,
    paces: Mapping[NodeId, Pace],
    sizes: Mapping[NodeId, float],
    between: float,
    quorum: int,
    settings: BatchControllerSettings,
) -> float:
    """What rounds of so many steps of the starting microbatch get done in a second, in such steps.

    Args:
        sizes: each node's microbatch over the starting one.
        between: seconds from a round's last contribution until the next one opens.
    """
    asked = {name: max(1, round(steps / sizes[name])) for name in paces}
    seconds = rounds.round_time(paces, asked, quorum)
    counted = 0.0
    for name, pace in paces.items():
        every = rounds.rounds_between(pace, seconds, 1, asked[name], settings)
        counted += rounds.counted(pace, seconds, every, asked[name]) * sizes[name]
    down = min(pace.down for pace in paces.values())  # it is in both: the round closes once a second node has the average
    return counted * efficiency(steps) / (seconds + max(0.0, between - down))


def choose(values: Mapping[int, float], present: int) -> int:
    """The number of steps with the largest value, if it gains enough over the present one."""
    best = max(values, key=lambda steps: (values[steps], -steps))
    return best if values[best] >= (1.0 + GAIN) * values.get(present, 0.0) else present

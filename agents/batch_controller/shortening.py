"""How many local steps a round has where it may have fewer than were asked for: as many as get most done.

What a round costs beside its steps is shared by them, so that more steps between two averages make more samples a second.
But H steps between two averages teach less than H with one between (`goodput.in_company`, as if there were much noise: the
strategies that go by this don't measure it). What all nodes' counted steps come to in a second, times this, is largest at a
few steps where links are cheap, and at as many as the user asked for where they aren't, and flat around that.
"""

from collections.abc import Mapping

from agents.batch_controller import goodput, rounds, waiting
from agents.batch_controller.rounds import Pace
from agents.batch_controller.settings import BatchControllerSettings
from schemas.ids import NodeId

GAIN = 0.02
"""For which the number is changed: all that was measured holds for other numbers too, but one round is of two kinds."""

ALIKE = 0.02
"""Part of the most useful length's progress by which another may fall short and count as good as it."""

LEAST_ROUNDS = 2
"""Rounds that must have closed: the first has cold caches and a deadline of its own."""


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
    apart: float | None = None,
) -> float:
    """What rounds of so many steps of the starting microbatch get done in a second, in such steps.

    Args:
        sizes: each node's microbatch over the starting one.
        between: seconds from a round's last contribution until the next one opens.
        apart: steps between two averages, where there are some in the midst of rounds.
    """
    asked = {name: max(1, round(steps / sizes[name])) for name in paces}
    seconds = waiting.round_time(paces, asked, rounds.round_time(paces, asked, quorum), settings)
    counted = 0.0
    for name, pace in paces.items():
        every = rounds.rounds_between(pace, seconds, 1, asked[name], settings)
        counted += rounds.counted(pace, seconds, every, asked[name]) * sizes[name]
    down = min(pace.down for pace in paces.values())  # it is in both: the round closes once a second node has the average
    return counted * goodput.in_company(steps if apart is None else apart) / (seconds + max(0.0, between - down))


def choose(values: Mapping[int, float], present: int) -> int:
    """The number of steps to have: the present one, unless another gains enough over it; of those that come within `ALIKE`
    of the most, the fewest. For what a round costs beside its steps is measured, and what long rounds teach less is
    assumed: of two guesses that are equally good the shorter round is the safer one."""
    most = max(values.values())
    best = min(steps for steps, value in values.items() if value >= (1.0 - ALIKE) * most)
    return present if present <= best and values.get(present, 0.0) * (1.0 + GAIN) >= most else best

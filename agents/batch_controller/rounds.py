"""How long a round takes and how many steps each node makes in it, so that all finish together.

A node's time is steps x step + up + down: its computation, the upload of its difference, and the average's way down. The
node with the shortest time for the steps asked for takes them all and sets the round; the others take as many as fit in
the same time, at least one (steps in proportion to speed: the worker that is three times slower takes a third). A round is
longer only where fewer nodes than the quorum (and half of the roster) could contribute to it. A node whose link needs
longer than `stretch` of a round contributes every so many rounds.
"""

import math
from collections.abc import Mapping

import msgspec

from agents.batch_controller.settings import BatchControllerSettings
from schemas.ids import NodeId

ROUND_UP_FROM = 0.7
"""Fraction of a step that is rounded up: it would be finished just a little late."""

LEAST_AIR = 0.2
"""Part of a round that is left for other things than the average's way down, when rounds between contributions are
counted: a link that can't even carry that is behind whatever it does."""


BACK_WITHIN = 1.05
"""Rounds that a node's least time must fit in before it contributes to each round again; well within `stretch`."""

NEAR = 0.5
"""Rounds by which the ideal number between contributions may be off before it is changed."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What a node takes for what, in seconds."""

    step: float
    up: float
    down: float
    misses: int = 0
    """Deadlines it missed in a row."""

    def time(self, steps: int) -> float:
        """For a round with so many steps."""
        return steps * self.step + self.up + self.down


def round_time(paces: Mapping[NodeId, Pace], asked_steps: int, quorum: int) -> float:
    """Seconds a round should take: the fastest node's, and enough for a quorum and half of the nodes to be in it."""
    fastest = min(pace.time(asked_steps) for pace in paces.values())
    least = sorted(pace.time(1) for pace in paces.values())
    needed = min(len(least), max(quorum, (len(least) + 1) // 2))
    return max(fastest, least[needed - 1])


def rounds_between(pace: Pace, seconds: float, present: int, settings: BatchControllerSettings) -> int:
    """Rounds between a node's contributions; `present` stays while the ideal is near it."""
    least = pace.time(1)
    if least <= seconds * (settings.stretch if present == 1 else BACK_WITHIN):
        return 1
    ideal = (pace.step + pace.up) / max(seconds - pace.down, LEAST_AIR * seconds)
    if present > 1 and present - 1.0 - NEAR < ideal < present + NEAR:
        return present
    return min(settings.every_max, max(2 if settings.every_max > 1 else 1, math.ceil(ideal)))


def ideal_steps(pace: Pace, seconds: float, every: int, settings: BatchControllerSettings) -> float:
    """Steps that fit between two contributions, as a real number; less for a node that missed deadlines."""
    room = every * (seconds - pace.down) - pace.up
    return max(0.0, room) / pace.step * settings.miss_discount ** min(pace.misses, settings.misses_counted)


def steps_for(ideal: float, asked: int, present: int | None, factor: float, settings: BatchControllerSettings) -> int:
    """Whole steps: `present` stays while the ideal is near it, and changes by `factor` at most (by one at least)."""
    steps = min(asked, max(1, math.floor(ideal + 1.0 - ROUND_UP_FROM)))
    if present is not None and steps < asked:
        slack = max(1.0 - ROUND_UP_FROM, settings.steps_slack * present)
        if present - slack <= ideal <= present + ROUND_UP_FROM + slack:
            return min(present, asked)
    if present is None:
        return steps
    if factor <= 1.0:
        return present
    most = max(present + 1, math.floor(present * factor))
    least = min(present - 1, math.ceil(present / factor))
    return min(most, max(1, least, steps))


def deadline(round_seconds: float, measured: bool, settings: BatchControllerSettings) -> float:
    """Seconds after its opening that a round closes with whoever is there."""
    learned = settings.deadline_factor * round_seconds + settings.deadline_floor
    return learned if measured else max(settings.start_deadline, learned)

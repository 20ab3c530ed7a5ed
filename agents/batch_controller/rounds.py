"""How long a round takes and how many steps each node makes in it, so that all finish together.

A node's time is steps x step + up + down: its computation, the upload of its difference, and the average's way down. The
node with the shortest time for the work asked for does it all and sets the round; the others take as many as fit in
the same time, at least one (steps in proportion to speed: the worker that is three times slower takes a third). A round is
longer only where fewer nodes than the quorum could contribute to it. A node whose link takes most of a round, or now and
then all of it, contributes every so many rounds, late and counting less, but with more steps: nobody waits for it.
"""

import math
from collections.abc import Mapping

import msgspec

from agents.batch_controller.settings import BatchControllerSettings
from schemas.ids import NodeId

ROUND_UP_FROM = 0.7
"""Fraction of a step that is rounded up: it would be finished just a little late."""

LEAST_ROOM = 0.25
"""Part of a round that transfers must leave for a smaller step to be the remedy; else fewer contributions are."""

READIER = 3.0
"""How much sooner steps are added than taken away: a node that stands still for a step a round wastes it every round, one
that is a little late costs the others no more than that."""

BETTER = 1.2
"""Factor by which another number of rounds between contributions must be better for it to be changed: rates vary."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What a node takes for what, in seconds."""

    step: float
    up: float
    down: float
    spread: float = 0.0
    """Seconds more that the slowest transfers of late took: what everybody would wait for."""
    misses: int = 0
    """Deadlines it missed in a row."""
    beside: bool = False
    """With `sync = "overlap"`: transfers go on beside the steps of the next round."""
    parts: int = 1
    """Fragments of the model, of which each round exchanges the next."""

    def time(self, steps: int) -> float:
        """For a round with so many steps."""
        if self.beside:
            return max(steps * self.step, self.up + self.down)
        return steps * self.step + self.up + self.down


def round_time(paces: Mapping[NodeId, Pace], asked: Mapping[NodeId, int], quorum: int) -> float:
    """Seconds a round should take: the fastest node's for the steps `asked` of it, and enough for a quorum to be in it."""
    fastest = min(pace.time(asked[name]) for name, pace in paces.items())
    least = sorted(pace.time(1) for pace in paces.values())
    needed = min(len(least), max(1, quorum))
    return max(fastest, least[needed - 1])


def room_for_steps(pace: Pace, seconds: float, every: int) -> float:
    """Seconds of computing between two contributions. Averages that come meanwhile do so beside it, but for the first; with
    `sync = "overlap"` all transfers do, if they fit."""
    if pace.beside:
        return every * seconds if pace.up + pace.down <= every * seconds else 0.0
    return every * seconds - pace.down - pace.up


def counted(pace: Pace, seconds: float, every: int, asked: int) -> float:
    """Steps that count a round, with one contribution in `every` rounds.

    It is every - 1 rounds late and counts 1 / every of its samples (`agents.reducer.policy.discount`), once in `every`
    rounds: steps / every^2. With transfers that take X of rounds of T, (every T - X) / every^2 is largest at
    every = 2 X / T: half of the time goes to computing. With one in each round it is waited for, slow transfers included.
    """
    late = pace.spread if every == 1 else 0.0
    room = room_for_steps(pace, seconds, every) - late
    steps = min(asked * every, math.floor(room / pace.step + 1.0 - ROUND_UP_FROM))
    return max(0, steps) / every**2


def rounds_between(pace: Pace, seconds: float, present: int, asked: int, settings: BatchControllerSettings) -> int:
    """Rounds between a node's contributions, such that most of its steps count; `present` stays while it is nearly best.

    They have no divisor in common with the number of fragments: else some fragments never had this node's turn.
    """
    allowed = (every for every in range(1, settings.every_max + 1) if math.gcd(every, pace.parts) == 1)
    values = {every: counted(pace, seconds, every, asked) for every in allowed}
    best = max(values, key=lambda every: (values[every], -every))
    if values[best] <= 0:
        return max(values)
    return present if values.get(present, 0.0) * BETTER >= values[best] else best


def ideal_steps(pace: Pace, seconds: float, every: int, settings: BatchControllerSettings) -> float:
    """Steps that fit between two contributions, as a real number; less for a node that missed deadlines."""
    room = room_for_steps(pace, seconds, every)
    return max(0.0, room) / pace.step * settings.miss_discount ** min(pace.misses, settings.misses_counted)


def steps_for(ideal: float, asked: int, present: int | None, factor: float, settings: BatchControllerSettings) -> int:
    """Whole steps: `present` stays while the ideal is near it, and changes by `factor` at most (by one at least), or to
    `asked` where it is above that."""
    steps = min(asked, max(1, math.floor(ideal + 1.0 - ROUND_UP_FROM)))
    if present is not None and steps < asked:
        slack = settings.steps_slack * present
        least_slack = 1.0 - ROUND_UP_FROM
        if present - max(least_slack, slack) <= ideal <= present + ROUND_UP_FROM + max(least_slack, slack / READIER):
            return min(present, asked)
    if present is None:
        return steps
    if factor <= 1.0:
        return min(asked, present)
    most = max(present + 1, math.floor(present * factor))
    least = min(present - 1, math.ceil(present / factor))
    return min(asked, most, max(1, least, steps))

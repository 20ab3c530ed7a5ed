"""How long a difference may be before it is clipped: next to the others of its round, else next to the past.

What local steps add grows with their number: in proportion where they all go one way, with its square root where noise
alone moves them, the noise being larger for a smaller microbatch. How many times as long as node j's difference node i's
may honestly be lies between the two, so that the larger is allowed:

    reach(i, j) = max(r, sqrt(r * max(1, microbatch_j / microbatch_i)))    with r = steps_i / steps_j

A difference may have `MULTIPLE` times the median over the nodes j of norm_j * reach(i, j). More than half of the nodes must
be honest for that median to be.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# Times the median. Honest differences must not be clipped. Measured on the digits, 10 rounds of AdamW, SGD and SGD with
# momentum: nodes that draw from the same data came to 1.9 times the median at most, with steps of 1 to 80 and microbatches
# of 1 to 64 side by side, and once to 2.9, where momentum still gathered speed in round 1 (by plain norms: to 59). Two
# classes of ten a node came to 1.5, one class a node to 2.4; one node with a single class among others that have all came
# to 7.6 in its first rounds, which is what clipping is there for. What does harm is far longer: a wrong learning rate,
# flipped bits of an exponent.
MULTIPLE: Final = 5.0
# Times the median of the past, where fewer than three nodes contribute: a learning rate's schedule moves the norms of
# all from round to round, which those of one round share. A warm restart may multiply them by some ten.
PAST_MULTIPLE: Final = 10.0
# Nodes from which on a median says more than either of them: of two that differ nobody knows which is wrong.
LEAST_COMPARED: Final = 3
# Rounds of the past: fewer than three say nothing, since a linear warm-up triples the norm from round 1 to round 2; beyond
# eight the median would lag behind a job whose differences shrink or grow.
LEAST_PAST: Final = 3
MOST_PAST: Final = 8


@dataclass(frozen=True, slots=True)
class Length:
    """How long a node's difference is, and what made it so."""

    node: str
    norm: float
    """L2."""
    steps: int
    microbatch: float
    """Samples a step."""

    def stands_for(self, other: "Length") -> float:
        """How long `other` may honestly be, going by this one."""
        ratio = max(1, other.steps) / max(1, self.steps)
        noise = max(1.0, self.microbatch / other.microbatch if other.microbatch > 0 else 1.0)
        return self.norm * max(ratio, math.sqrt(ratio * noise))


class Clipper:
    """Decides the scales of a round's differences, and remembers the rounds before."""

    def __init__(self) -> None:
        self._past: deque[list[Length]] = deque(maxlen=MOST_PAST)

    def scales(self, lengths: Sequence[Length]) -> list[float]:
        """What to multiply each difference by, 1 for most; the lengths that result are remembered.

        Several of one node (late ones) have one say together, the shortest, so that nobody makes up a majority alone.
        Where the median is 0, or there is nobody to compare with, nothing is clipped.
        """
        compared, multiple = list(lengths), MULTIPLE
        if len({length.node for length in lengths}) < LEAST_COMPARED:
            enough = len(self._past) >= LEAST_PAST
            compared, multiple = [length for round_ in self._past for length in round_] if enough else [], PAST_MULTIPLE
            allowed = [self._allowed(length, [[c] for c in compared], multiple) for length in lengths]
        else:
            nodes = sorted({length.node for length in compared})
            said = [[c for c in compared if c.node == node] for node in nodes]
            allowed = [self._allowed(length, said, multiple) for length in lengths]
        scales = [
            min(1.0, bound / length.norm) if bound > 0 and length.norm > 0 else 1.0
            for bound, length in zip(allowed, lengths, strict=True)
        ]
        self._past.append(
            [
                Length(length.node, length.norm * scale, length.steps, length.microbatch)
                for length, scale in zip(lengths, scales, strict=True)
            ]
        )
        return scales

    @staticmethod
    def _allowed(length: Length, said: Sequence[Sequence[Length]], multiple: float) -> float:
        """The longest that a difference may be, going by what each of the others says; 0: nobody can say."""
        if not said:
            return 0.0
        return multiple * statistics.median(min(each.stands_for(length) for each in one) for one in said)

"""Averages that a few bad differences can't move far: pure functions of vectors of one length.

Every function works through its inputs in chunks: beyond the inputs it needs memory for its result (where that is a tensor)
and for some `CHUNK` elements an input. All numbers must be finite, which decoding has seen to. The reducer alone computes
these, and everybody applies the bytes that it makes of the result, so reductions are fine here.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from runners.jobs.vectors import Combination, Vector, chunks, whole

# Steps of centred clipping: one would do from a good centre; two more bring it to rest where the median it begins with
# lies off the good ones' mean.
CENTRING_STEPS: Final = 3


def norms(deltas: Sequence[Vector], centre: Vector | None = None) -> list[float]:
    """The L2 norm of each, or of its difference to `centre`; summed in float64, where no float32 overflows."""
    totals = [0.0] * len(deltas)
    for part in chunks(deltas[0].numel()):
        origin = None if centre is None else centre[part].double()
        for place, delta in enumerate(deltas):
            numbers = delta[part].double() if origin is None else delta[part] - origin
            totals[place] += float(numbers.dot(numbers))
    return [total**0.5 for total in totals]


def clipped_mean(weights: Sequence[float], deltas: Sequence[Vector], scales: Sequence[float]) -> Vector:
    """The weighted mean of the differences after each was multiplied by its scale: 1, or less where it is too long.

    The weights are those of the mean: what is clipped keeps its weight and loses length. A difference that may have the
    norm b at most moves the mean by weight / (sum of weights) * b at most, whatever it holds. Clipping to a norm is the
    defence of Sun et al., arXiv 1911.07963; a bound that follows the clients' norms is Andrew et al.'s, arXiv 1905.03871.
    """
    total = sum(weights)
    return Combination([weight / total * scale for weight, scale in zip(weights, scales, strict=True)], deltas)


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Per element the mean of what is left without the `drop` largest and the `drop` smallest.

    Tolerates `drop` bad ones: every element lies between the good ones' least and greatest. Needs more than 2 * drop
    (Yin et al., arXiv 1803.01498, definition 2).
    """

    deltas: Sequence[Vector]
    drop: int

    def numel(self) -> int:
        """Elements."""
        return self.deltas[0].numel()

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        ordered = _sorted([delta[place].clone() for delta in self.deltas])
        kept = slice(self.drop, len(self.deltas) - self.drop)
        return torch.stack(ordered[kept]).mean(dim=0, dtype=torch.float64).to(torch.float32)


def median(deltas: Sequence[Vector]) -> TrimmedMean:
    """Per element the median; of an even number the mean of the middle two.

    Tolerates any minority, (n - 1) // 2 of n (Yin et al., arXiv 1803.01498, definition 1).
    """
    return TrimmedMean(deltas, (len(deltas) - 1) // 2)


def krum(deltas: Sequence[Vector], bad: int) -> list[int]:
    """Places of the n - bad - 2 differences that lie closest to others (Multi-Krum), in ascending order.

    Each is scored by the sum of its squared distances to its n - bad - 2 nearest. Tolerates `bad` bad ones where
    n >= 2 * bad + 3 (Blanchard et al., NeurIPS 2017, section 4).
    """
    count = len(deltas)
    squared = torch.zeros(count, count, dtype=torch.float64)
    for part in chunks(deltas[0].numel()):
        rows = torch.stack([delta[part] for delta in deltas]).double()
        for place in range(count - 1):
            apart = (rows[place + 1 :] - rows[place]).square_().sum(dim=1)
            squared[place, place + 1 :] += apart
            squared[place + 1 :, place] += apart
    near = count - bad - 2
    scores = squared.sort(dim=1).values[:, 1 : near + 1].sum(dim=1).tolist()
    return sorted(sorted(range(count), key=lambda place: (scores[place], place))[:near])


def centered_clip(deltas: Sequence[Vector]) -> Tensor:
    """Centred clipping: from a centre, go by the mean of the ways to each difference, none counted as longer than a radius.

    v' = v + mean of (x - v) * min(1, radius / |x - v|)   (Karimireddy et al., arXiv 2012.10333, their rule CClip)

    The paper begins at the last round's result and takes a fixed radius; rounds here may differ in length and in who is
    there, so that the element-wise median is the beginning, and the radius the median distance from it. Tolerates any
    minority as the median does; from there a bad difference pulls the result by CENTRING_STEPS * radius / n at most.
    """
    centre = whole(median(deltas))
    distances = norms(deltas, centre)
    radius = statistics.median(distances)
    for _ in range(CENTRING_STEPS):
        factors = [min(1.0, radius / distance) if distance > 0 else 1.0 for distance in distances]
        for part in chunks(len(centre)):
            way = torch.zeros_like(centre[part], dtype=torch.float64)
            for factor, delta in zip(factors, deltas, strict=True):
                way.add_((delta[part].double() - centre[part]).mul_(factor))
            centre[part] += way.div_(len(deltas))
        distances = norms(deltas, centre)
    return centre


def _sorted(rows: list[Tensor]) -> list[Tensor]:
    """The rows' elements in ascending order, place by place, in the same memory.

    Odd-even transposition (Knuth, volume 3, section 5.3.4): whole rows are compared, which vectorises. `torch.sort` across
    rows took 2 to 20 times as long for up to 32 of them.
    """
    spare = torch.empty_like(rows[0])
    for turn in range(len(rows)):
        for place in range(turn % 2, len(rows) - 1, 2):
            low, high = rows[place], rows[place + 1]
            torch.minimum(low, high, out=spare)
            torch.maximum(low, high, out=high)
            rows[place], spare = spare, low
    return rows

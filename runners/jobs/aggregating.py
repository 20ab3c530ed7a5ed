"""A round's differences made one by the job's method, and what is to be told of each."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from agents.reducer.works import Part, Treated
from runners.jobs import robust
from runners.jobs.anchor import weighted_average
from runners.jobs.clipping import MULTIPLE, Clipper, Length
from schemas.aggregation import Aggregation
from schemas.ids import NodeId

Gathered = tuple[Part, Tensor]
"""A part of the average and its difference: flat float32 on the CPU, parameters first, then floating-point buffers."""

# Times the median distance from the result, beyond which a difference is said to stand apart: as for its norm.
APART: Final = MULTIPLE
# The part of the nodes that a trimmed mean drops at either end, at least one: a quarter of bad nodes is many, and half
# of all nodes' work is left.
TRIMMED: Final = 0.25


class Aggregator:
    """Makes one of a round's differences; remembers the lengths of the rounds before."""

    def __init__(self, parameters: int, count: int) -> None:
        """`parameters` of the `count` elements are trained; the others are buffers: statistics of any size, which are
        measured apart lest they drown the parameters."""
        self._segments = [slice(*ends) for ends in pairwise((0, parameters, count)) if ends[0] < ends[1]]
        self._clippers = [Clipper() for _ in self._segments]

    def aggregate(self, gathered: Sequence[Gathered], method: Aggregation) -> tuple[Tensor, tuple[Treated, ...]]:
        """The average, and how each part counted in it, in the order given.

        `mean` and `clip` go by the parts' weights. The rest give each node one vote, whatever samples it claims; late
        differences of a node become one with its others first.

        Raises:
            AnchorError: no contribution, weights that are negative, not finite or all zero.
        """
        if method in ("mean", "clip"):
            return self._weighted(gathered, clip=method == "clip")
        votes = _votes(gathered)
        if method == "krum":
            places = robust.krum([delta[self._segments[0]] for delta in votes.values()], (len(votes) - 3) // 2)
            chosen = [list(votes)[place] for place in places]
            average = robust.combine([1.0 / len(chosen)] * len(chosen), [votes[node] for node in chosen])
        else:
            chosen = list(votes)
            average = torch.cat([_vote(method, [d[segment] for d in votes.values()]) for segment in self._segments])
        return average, self._told(gathered, votes, chosen, average)

    def length(self, average: Tensor) -> float:
        """The L2 norm of an average's parameters, next to those of its parts in what is told of them."""
        return robust.norms([average[self._segments[0]]])[0]

    def _weighted(self, gathered: Sequence[Gathered], *, clip: bool) -> tuple[Tensor, tuple[Treated, ...]]:
        parts, deltas = [part for part, _ in gathered], [delta for _, delta in gathered]
        norms = [robust.norms([delta[segment] for delta in deltas]) for segment in self._segments]
        scales = [[1.0] * len(parts) for _ in self._segments]
        if clip:
            scales = [clipper.scales(_lengths(parts, n)) for clipper, n in zip(self._clippers, norms, strict=True)]
        least = [min(of_one) for of_one in zip(*scales, strict=True)]
        told = tuple(_clipped(*each) for each in zip(parts, norms[0], least, strict=True))
        weights = [part.weight for part in parts]
        if all(scale == 1.0 for scale in least):
            return weighted_average(list(zip(weights, deltas, strict=True))), told
        segments = zip(self._segments, scales, strict=True)
        return torch.cat([robust.clipped_mean(weights, [d[s] for d in deltas], scale) for s, scale in segments]), told

    def _told(
        self, gathered: Sequence[Gathered], votes: dict[NodeId, Tensor], chosen: Sequence[NodeId], average: Tensor
    ) -> tuple[Treated, ...]:
        """Everybody's vote, and who is far off; by the parameters alone."""
        trained = self._segments[0]
        norms = robust.norms([delta[trained] for _, delta in gathered])
        distances = robust.norms([delta[trained] for delta in votes.values()], average[trained])
        usual = statistics.median(distances)
        apart = {
            node: f"stands apart: {distance:.3g} from the result, where {usual:.3g} is the median"
            for node, distance in zip(votes, distances, strict=True)
            if distance > APART * usual
        }
        return tuple(
            Treated(
                node=part.node,
                round=part.round,
                weight=share / len(chosen) if part.node in chosen else 0.0,
                norm=norm,
                scale=1.0 if part.node in chosen else 0.0,
                remark=apart.get(part.node, ""),
            )
            for (part, _), share, norm in zip(gathered, _shares(gathered), norms, strict=True)
        )


def _vote(method: Aggregation, deltas: Sequence[Tensor]) -> Tensor:
    if method == "centered_clip":
        return robust.centered_clip(deltas)
    return robust.median(deltas) if method == "median" else robust.trimmed_mean(deltas, max(1, int(TRIMMED * len(deltas))))


def _lengths(parts: Sequence[Part], norms: Sequence[float]) -> list[Length]:
    return [Length(p.node, norm, p.steps, p.samples / max(1, p.steps)) for p, norm in zip(parts, norms, strict=True)]


def _clipped(part: Part, norm: float, scale: float) -> Treated:
    remark = f"clipped to {scale:.3g} of its length: its norm is {norm:.3g}" if scale < 1.0 else ""
    return Treated(node=part.node, round=part.round, weight=part.weight, norm=norm, scale=scale, remark=remark)


def _shares(gathered: Sequence[Gathered]) -> list[float]:
    """Each part's share of its node's vote: by weight, equal where the weights are 0."""
    totals: defaultdict[NodeId, list[float]] = defaultdict(list)
    for part, _ in gathered:
        totals[part.node].append(part.weight)
    return [
        part.weight / sum(totals[part.node]) if sum(totals[part.node]) > 0 else 1.0 / len(totals[part.node])
        for part, _ in gathered
    ]


def _votes(gathered: Sequence[Gathered]) -> dict[NodeId, Tensor]:
    """One difference a node."""
    of_node: defaultdict[NodeId, list[tuple[float, Tensor]]] = defaultdict(list)
    for (part, delta), share in zip(gathered, _shares(gathered), strict=True):
        of_node[part.node].append((share, delta))
    return {
        node: one[0][1] if len(one) == 1 else robust.combine([s for s, _ in one], [d for _, d in one])
        for node, one in of_node.items()
    }

"""A round's differences made one by the job's method, and what is to be told of each."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from torch import Tensor

from agents.reducer import words
from agents.reducer.works import Part, Treated
from runners.jobs import robust
from runners.jobs.anchor import weighted_average
from runners.jobs.clipping import Clipper, Length
from runners.jobs.codecs import Decoded
from runners.jobs.vectors import Combination, Joined, Section, Vector, whole
from schemas.aggregation import Aggregation
from schemas.ids import NodeId
from schemas.shards import OrderedPart

Gathered = tuple[Part, Vector]
"""A part of the average and its difference: parameters first, then floating-point buffers."""

# The part of the nodes that a trimmed mean drops at either end, at least one: a quarter of bad nodes is many, and half
# of all nodes' work is left.
TRIMMED: Final = 0.25


class Aggregator:
    """Makes one of a round's differences; remembers the lengths of the rounds before."""

    def __init__(self, parameters: int, count: int) -> None:
        """`parameters` of the `count` elements are trained; the others are buffers: statistics of any size, which are
        measured apart lest they drown the parameters."""
        self._segments = [ends for ends in pairwise((0, parameters, count)) if ends[0] < ends[1]]
        self._clippers = [Clipper() for _ in self._segments]

    def aggregate(self, gathered: Sequence[Gathered], method: Aggregation) -> tuple[Vector, tuple[Treated, ...]]:
        """The average, computed where it is looked at, and how each part counted in it, in the order given.

        `mean` and `clip` go by the parts' weights. The rest give each node one vote, whatever samples it claims; late
        differences of a node become one with its others first.

        Raises:
            AnchorError: no contribution, weights that are negative, not finite or all zero.
        """
        if method in ("mean", "clip"):
            return self._weighted(gathered, clip=method == "clip")
        votes = _votes(gathered)
        if method == "krum":
            places = robust.krum(self._trained(votes.values()), (len(votes) - 3) // 2)
            chosen = [list(votes)[place] for place in places]
            average: Vector = Combination([1.0 / len(chosen)] * len(chosen), [votes[node] for node in chosen])
        else:
            chosen = list(votes)
            average = self._voted(method, votes)
        return average, self._told(gathered, votes, chosen, average)

    def _trained(self, vectors: Iterable[Vector]) -> list[Section]:
        return [Section(vector, *self._segments[0]) for vector in vectors]

    def _weighted(self, gathered: Sequence[Gathered], *, clip: bool) -> tuple[Vector, tuple[Treated, ...]]:
        parts, deltas = [part for part, _ in gathered], [delta for _, delta in gathered]
        norms = list(zip(*map(self.lengths, deltas), strict=True))
        scales, told = self.judge(parts, norms, clip=clip)
        return self._mean([part.weight for part in parts], deltas, scales), told

    def lengths(self, delta: Vector) -> tuple[float, ...]:
        """The L2 norms of a difference's parameters and, where there are some, of its buffers; what a payload holds is
        measured once."""
        known = delta.lengths if isinstance(delta, Decoded) else None
        if known is None:
            known = tuple(robust.norms([Section(delta, *ends)])[0] for ends in self._segments)
            if isinstance(delta, Decoded):
                delta.lengths = known
        return known

    def judge(
        self, parts: Sequence[Part], norms: Sequence[Sequence[float]], *, clip: bool
    ) -> tuple[list[list[float]], tuple[Treated, ...]]:
        """What each part is multiplied by, and what is told of it, by the norms of all parts: those of their parameters,
        then where there are buffers those of theirs. The scales come in the same form."""
        norms = norms[: len(self._segments)]
        scales = [[1.0] * len(parts) for _ in self._segments]
        if clip:
            scales = [clipper.scales(_lengths(parts, n)) for clipper, n in zip(self._clippers, norms, strict=True)]
        least = [min(of_one) for of_one in zip(*scales, strict=True)]
        return scales, tuple(_clipped(*each) for each in zip(parts, norms[0], least, strict=True))

    def aggregate_part(
        self, gathered: Sequence[tuple[OrderedPart, Vector]], method: Aggregation
    ) -> tuple[Vector, dict[NodeId, float]]:
        """The average of a piece of the vector, whose parts were judged by the whole; and where each node has one vote, the
        squares of the distances of their votes from it."""
        deltas = [delta for _, delta in gathered]
        if method in ("mean", "clip"):
            scales = [[part.scale for part, _ in gathered], [part.buffer_scale for part, _ in gathered]]
            return self._mean([part.weight for part, _ in gathered], deltas, scales[: len(self._segments)]), {}
        votes = _votes([(Part(node=part.node, round=part.round, weight=part.weight), delta) for part, delta in gathered])
        average = self._voted(method, votes)
        distances = robust.norms(self._trained(votes.values()), self._trained([average])[0])
        return average, {node: distance**2 for node, distance in zip(votes, distances, strict=True)}

    def _mean(self, weights: Sequence[float], deltas: Sequence[Vector], scales: Sequence[Sequence[float]]) -> Vector:
        if all(scale == 1.0 for of_segment in scales for scale in of_segment):
            return weighted_average(list(zip(weights, deltas, strict=True)))
        segments = [[Section(delta, *ends) for delta in deltas] for ends in self._segments]
        return Joined([robust.clipped_mean(weights, *each) for each in zip(segments, scales, strict=True)])

    def _voted(self, method: Aggregation, votes: dict[NodeId, Vector]) -> Tensor:
        # Looked at twice, and dear: here memory for the result pays.
        return whole(Joined([_vote(method, [Section(vote, *e) for vote in votes.values()]) for e in self._segments]))

    def _told(
        self, gathered: Sequence[Gathered], votes: dict[NodeId, Vector], chosen: Sequence[NodeId], average: Vector
    ) -> tuple[Treated, ...]:
        """Everybody's vote, and who is far off; by the parameters alone."""
        norms = robust.norms(self._trained(delta for _, delta in gathered))
        distances = robust.norms(self._trained(votes.values()), self._trained([average])[0])
        far = words.apart(dict(zip(votes, distances, strict=True)))
        return tuple(
            Treated(
                node=part.node,
                round=part.round,
                weight=share / len(chosen) if part.node in chosen else 0.0,
                norm=norm,
                scale=1.0 if part.node in chosen else 0.0,
                remark=far.get(part.node, ""),
            )
            for (part, _), share, norm in zip(gathered, _shares([part for part, _ in gathered]), norms, strict=True)
        )


class Measured:
    """A vector that is looked at once, and the length of its first elements."""

    def __init__(self, of: Vector, parameters: int) -> None:
        self._of = of
        self._parameters = parameters
        self._squares = 0.0

    @property
    def norm(self) -> float:
        """The L2 norm of those parameters that have been looked at: next to those of an average's parts, of the average."""
        return float(self._squares**0.5)

    def times(self, factor: float) -> Vector:
        """This vector, every element times a factor; what is measured are those without it."""
        return self if factor == 1.0 else Combination((factor,), (self,))

    def numel(self) -> int:
        """Elements."""
        return self._of.numel()

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        numbers = self._of[place]
        measured = numbers[: max(0, self._parameters - place.start)].double()
        self._squares += float(measured.dot(measured))
        return numbers


def voted(parts: Sequence[Part], norms: Sequence[float]) -> tuple[Treated, ...]:
    """What is told of parts whose nodes have one vote each, before anything is made of them."""
    nodes = len({part.node for part in parts})
    shares = _shares(parts)
    return tuple(
        Treated(node=part.node, round=part.round, weight=share / nodes, norm=norm)
        for part, share, norm in zip(parts, shares, norms, strict=True)
    )


def _vote(method: Aggregation, deltas: Sequence[Vector]) -> Vector:
    if method == "centered_clip":
        return robust.centered_clip(deltas)
    return robust.median(deltas) if method == "median" else robust.TrimmedMean(deltas, max(1, int(TRIMMED * len(deltas))))


def _lengths(parts: Sequence[Part], norms: Sequence[float]) -> list[Length]:
    return [Length(p.node, norm, p.steps, p.samples / max(1, p.steps)) for p, norm in zip(parts, norms, strict=True)]


def _clipped(part: Part, norm: float, scale: float) -> Treated:
    remark = f"clipped to {scale:.3g} of its length: its norm is {norm:.3g}" if scale < 1.0 else ""
    return Treated(node=part.node, round=part.round, weight=part.weight, norm=norm, scale=scale, remark=remark)


def _shares(parts: Sequence[Part]) -> list[float]:
    """Each part's share of its node's vote: by weight, equal where the weights are 0."""
    totals: defaultdict[NodeId, list[float]] = defaultdict(list)
    for part in parts:
        totals[part.node].append(part.weight)
    return [
        part.weight / sum(totals[part.node]) if sum(totals[part.node]) > 0 else 1.0 / len(totals[part.node])
        for part in parts
    ]


def _votes(gathered: Sequence[Gathered]) -> dict[NodeId, Vector]:
    """One difference a node."""
    of_node: defaultdict[NodeId, list[tuple[float, Vector]]] = defaultdict(list)
    for (part, delta), share in zip(gathered, _shares([part for part, _ in gathered]), strict=True):
        of_node[part.node].append((share, delta))
    return {
        node: one[0][1] if len(one) == 1 else Combination([s for s, _ in one], [d for _, d in one])
        for node, one in of_node.items()
    }

"""The arithmetic of a round."""

from collections.abc import Iterable

from agents.reducer.works import Part
from schemas.ids import NodeId


def discount(late: int) -> float:
    """What a contribution counts that is `late` rounds late: 1 / (1 + late).

    The polynomial staleness discount with exponent 1 of FedAsync (Xie et al., arXiv 1903.03934, section 5.2).
    """
    return 1.0 / (1.0 + late)


def weights(contributions: Iterable[tuple[NodeId, int, int]], round_: int) -> tuple[Part, ...]:
    """The parts of a round's average, from (node, round it was made for, samples), in order of node and round.

    Each counts by its samples, discounted by its lateness; the weights sum to 1. With samples all 0 they are equal.
    """
    raw = [(node, made, samples * discount(round_ - made)) for node, made, samples in sorted(contributions)]
    total = sum(weight for _, _, weight in raw)
    if total <= 0:
        return tuple(Part(node=node, round=made, weight=1.0 / len(raw)) for node, made, _ in raw)
    return tuple(Part(node=node, round=made, weight=weight / total) for node, made, weight in raw)


def needed(quorum: int, live: int, prolonged: int, prolongations: int) -> int:
    """Contributors without which a round stays open.

    The roster's quorum, or a majority of those who are alive where that is less (the roster may not know of a death
    yet); after so many prolongations anybody will do.
    """
    if prolonged >= prolongations:
        return 1
    return max(1, min(quorum, live // 2 + 1))

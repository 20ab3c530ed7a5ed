"""The arithmetic of a round."""

from collections.abc import Iterable

from agents.reducer.works import Part
from schemas.aggregation import LEAST_NODES, Aggregation
from schemas.fragments import turns_late
from schemas.jobs import JobRequest
from schemas.training import ContributionOffered

FAINT = 1e-6
"""Times the anchor's norm: a model that has converged may go to and fro by its numbers' last bits (6e-8 of each), and make
the same difference twice; what teaches anything is larger."""


def discount(late: int) -> float:
    """What a contribution counts that is `late` rounds late: 1 / (1 + late).

    The polynomial staleness discount with exponent 1 of FedAsync (Xie et al., arXiv 1903.03934, section 5.2).
    """
    return 1.0 / (1.0 + late)


def weights(offers: Iterable[ContributionOffered], round_: int, fragments: int = 1) -> tuple[Part, ...]:
    """The parts of a round's average, in order of node and round.

    Each counts by its samples, discounted by its lateness; the weights sum to 1. With samples all 0 they are equal. Of a
    model in fragments, a difference that is late is one that missed turns of its fragment.
    """
    ordered = sorted(offers, key=lambda offer: (offer.node, offer.round))
    raw = [offer.samples * discount(turns_late(offer.round, round_, fragments)) for offer in ordered]
    total = sum(raw)
    return tuple(
        Part(
            node=offer.node,
            round=offer.round,
            weight=weight / total if total > 0 else 1.0 / len(raw),
            samples=offer.samples,
            steps=offer.steps,
        )
        for offer, weight in zip(ordered, raw, strict=True)
    )


def averaging(request: JobRequest) -> Aggregation:
    """How a job wants its rounds averaged. With gradients always as a mean: no other is one step on all the samples."""
    return "mean" if request.sync == "step" else request.aggregation


def method(asked: Aggregation, nodes: int) -> Aggregation:
    """How a round of so many contributing nodes is averaged: as the job asks, or clipped where that takes more nodes."""
    return asked if nodes >= LEAST_NODES[asked] else "clip"


def needed(quorum: int, live: int, prolonged: int, prolongations: int) -> int:
    """Contributors without which a round stays open.

    The roster's quorum, or that of those who are alive where it is less (the roster may not know of a death yet); after so
    many prolongations anybody will do.
    """
    if prolonged >= prolongations:
        return 1
    return max(1, min(quorum, live // 3 + 1))


LONGEST_PROLONGATION = 60.0  # seconds: how late a contribution may be noticed that comes after nobody was there for long


def prolongation(seconds: float, prolonged: int, prolongations: int) -> float:
    """Seconds that a round is prolonged by: the same each time, then doubled each time while nobody at all is there."""
    waiting = max(0, prolonged - prolongations)
    return float(min(LONGEST_PROLONGATION, max(1.0, seconds) * 2 ** min(waiting, 16)))


def code_difference(theirs: str, ours: str) -> str:
    """What differs between two descriptions of code, which are `part=value` separated by spaces."""
    own, other = _parts(ours), _parts(theirs)
    differing = [name for name in other if own.get(name) != other[name]]
    words = [f"{name} {other[name][:12]} instead of {own.get(name, 'none')[:12]}" for name in differing]
    return ", ".join(words) or "its description differs"


def _parts(code: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in code.split() if "=" in part)

"""What a closed round says of its contributions, as fields and in words."""

import statistics
from collections.abc import Mapping, Sequence

from agents.reducer import sites
from agents.reducer.works import Part, Treated
from schemas.aggregation import APART, LEAST_NODES, Aggregation
from schemas.ids import NodeId
from schemas.training import Contribution, ContributionOffered


def contributions(
    messages: Sequence[ContributionOffered], treated: Sequence[Treated], round_: int, parts: Sequence[Part]
) -> tuple[Contribution, ...]:
    """The listing of a round's contributions in the order of its parts; `treated`: how each counted, where it is known."""
    offers = {(m.node, m.round): m for m in messages}
    told = {(t.node, t.round): t for t in treated}
    listed: list[Contribution] = []
    for part in parts:
        offer, how = offers[part.node, part.round], told.get((part.node, part.round))
        one = Contribution(
            node=part.node,
            round=part.round,
            late=round_ - part.round,
            samples=offer.samples,
            weight=how.weight if how is not None else part.weight,
            loss=offer.loss,
            steps=offer.steps,
            norm=how.norm if how is not None else 0.0,
            scale=how.scale if how is not None else 1.0,
            remark=how.remark if how is not None else "",
        )
        listed += sites.listed(one, offer)
    return tuple(listed)


def closing(
    counted: Sequence[Contribution],
    absent: str,
    refused: Sequence[NodeId],
    asked: Aggregation,
    method: Aggregation,
) -> str:
    """Why and how a round closed, in a line; `absent`: who was waited for in vain, and what becomes of them."""
    late = [f"{c.node} ({c.late} late)" for c in counted if c.late]
    words = f"{len(counted)} contributions of {sum(c.samples for c in counted)} samples"
    words += f"; with {', '.join(late)}" if late else ""
    words += f"; the deadline passed without {absent}" if absent else ""
    words += f"; refused from {', '.join(refused)}" if refused else ""
    left_out = [c.node for c in counted if c.scale == 0.0]
    words += f"; {method} leaves out {', '.join(left_out)}" if left_out else ""
    if method != asked:
        nodes = len({c.node for c in counted})
        words += f"; {method} instead of {asked}, which needs {LEAST_NODES[asked]} nodes, not {nodes}"
    return words + "".join(f"; {c.node}: {c.remark}" for c in counted if c.remark)


def apart(distances: Mapping[NodeId, float]) -> dict[NodeId, str]:
    """Remarks on nodes whose votes stand apart, by the distances of everybody's votes from what was made of them."""
    usual = statistics.median(distances.values()) if distances else 0.0
    return {
        node: f"stands apart: {distance:.3g} from the result, where {usual:.3g} is the median"
        for node, distance in distances.items()
        if distance > APART * usual
    }

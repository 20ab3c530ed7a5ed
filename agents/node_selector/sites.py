"""Which nodes of a roster average among themselves, and who of each site speaks for it."""

from collections.abc import Mapping, Sequence

from schemas.ids import NodeId
from schemas.sites import MOST_MEMBERS

SPEAKER_MARGIN = 1.25
"""Factor by which another node's upload must be better for it to become the speaker: a change costs the site a round or two
in which everybody sends, and rates vary by a quarter from round to round."""


def group(
    places: Mapping[NodeId, str],
    upload: Mapping[NodeId, float],
    current: Sequence[Sequence[NodeId]],
    reducer: NodeId,
    *,
    choosing: bool,
) -> tuple[tuple[NodeId, ...], ...]:
    """The sites with two nodes or more, in the order of their names; in each the speaker first, then who would follow it.

    Args:
        places: the site of each node that is ready and whose owner named one.
        upload: how good each node's upload is, any unit; only ratios count.
        current: the sites as they are; while nothing may be chosen, those present stay ahead in their order.
        reducer: who reduces first. It speaks for its own site: what it sends itself takes no link.
        choosing: whether speakers may change by choice.
    """
    sites: dict[str, list[NodeId]] = {}
    for node, site in places.items():
        if site:
            sites.setdefault(site, []).append(node)
    speakers = {nodes[0] for nodes in current if nodes}
    seats = {node: seat for nodes in current for seat, node in enumerate(nodes)}

    def rank(node: NodeId) -> tuple[int, float, str]:
        if node == reducer:
            return 0, 0.0, node
        if node in seats and not choosing:
            return 1, float(seats[node]), node
        margin = SPEAKER_MARGIN if node in speakers else 1.0
        return 2, -upload.get(node, 0.0) * margin, node

    ordered = (tuple(sorted(nodes, key=rank)[:MOST_MEMBERS]) for _, nodes in sorted(sites.items()))
    return tuple(nodes for nodes in ordered if len(nodes) > 1)

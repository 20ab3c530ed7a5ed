"""The ordered list of reducers: whose links and speed carry everybody's tensors best."""

from collections.abc import Mapping, Sequence

import msgspec

from schemas.ids import NodeId
from schemas.network import LinkQuality

GRADES = tuple(LinkQuality)
"""Best first."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A roster node's fitness to reduce."""

    node: NodeId
    merit: float
    fit: bool = True
    """False for a node on probation, or with a link that is critical or offline."""
    ready: bool = True
    """False while its job process is still starting."""


def order_reducers(
    standings: Sequence[Standing], current: Sequence[NodeId], *, limit: int, margin: float, choosing: bool
) -> tuple[NodeId, ...]:
    """Up to `limit` nodes, best first.

    While nothing may be chosen, those of the current list stay ahead in their order. Otherwise a place in the list is
    worth a margin, more at its head, so that the list doesn't turn with the noise of the links.
    """
    seats = {node: seat for seat, node in enumerate(current)}

    def key(standing: Standing) -> tuple[int, float]:
        seat = seats.get(standing.node)
        tier = (0 if standing.ready else 1) + (0 if standing.fit else 2)
        if seat is None:
            return (tier if choosing else tier + 4), -standing.merit
        if not choosing:
            return 0, float(seat)
        return tier, -(standing.merit + margin * (limit - seat) / limit)

    ranked = sorted(standings, key=key)
    return tuple(standing.node for standing in ranked[:limit])


def order_helpers(
    standings: Sequence[Standing], grades: Mapping[NodeId, LinkQuality | None], first: NodeId
) -> tuple[NodeId, ...]:
    """Who may reduce a shard of the rounds that `first` reduces, best first: whose links are about as good as its.

    One grade worse is about as good: a shard is a part of what `first` would carry alone. A link of two grades less is
    slower than that, and everybody would wait for its shard.
    """
    own = grades.get(first)
    if own is None:
        return ()
    worst = GRADES.index(own) + 1
    able = [
        each for each in standings if each.fit and (grade := grades[each.node]) is not None and GRADES.index(grade) <= worst
    ]
    return tuple(each.node for each in sorted(able, key=lambda each: -each.merit))

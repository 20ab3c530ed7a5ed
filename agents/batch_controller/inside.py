"""What a job's rounds lose by their length where all its nodes average in the midst of them, at one site."""

from collections.abc import Collection

import msgspec

from schemas.ids import NodeId
from schemas.sites import SitePaced


class Inside(msgspec.Struct, kw_only=True, frozen=True):
    """A site's group, and how often it averages."""

    members: tuple[NodeId, ...]
    epoch: int
    steps: float
    """Of each member between two averages."""


def heard(event: SitePaced) -> Inside:
    """What a speaker has decided."""
    return Inside(members=event.members, epoch=event.epoch, steps=event.steps)


def covers(inside: Inside | None, roster: Collection[NodeId]) -> bool:
    """Whether all who take part average there: else rounds lose by their length as ever, for those at other places."""
    return inside is not None and bool(roster) and set(roster) <= set(inside.members)


def apart(inside: Inside | None, roster: Collection[NodeId], steps: float) -> float:
    """Steps between two averages of all nodes, in rounds of so many."""
    return min(steps, inside.steps) if inside is not None and covers(inside, roster) else steps

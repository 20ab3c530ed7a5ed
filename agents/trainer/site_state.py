"""What a trainer knows of the other nodes of its site."""

import msgspec

from schemas.ids import NodeId
from schemas.training import ContributionOffered


class SiteState(msgspec.Struct, kw_only=True):
    """The site's nodes, and the group in which they average."""

    nodes: tuple[NodeId, ...] = ()
    """Of this node's site, by the roster: the one that should speak first. Empty: it has none."""
    occasional: frozenset[NodeId] = frozenset()
    """Nodes that don't contribute to each round: nobody waits for them inside either."""
    epoch: int = 0
    """The group that this node is in, or is about to be in; 0: none."""
    members: tuple[NodeId, ...] = ()
    """Of that group, its speaker first."""
    joined: bool = False
    first: int = 0
    """The first round that it averages."""
    averaging: int = 0
    """The round that is being averaged inside; 0: none."""
    own: dict[int, ContributionOffered] = {}
    """By round: this node's own offers that nobody was told of, since their differences go with the site's."""
    given: dict[int, NodeId] = {}
    """By round: who has taken the difference over, and sends it with the site's; this node itself where it speaks."""
    parts: int = 0
    """Of the speaker: into how many parts a round's steps are best cut, as far as it knows; 0: nothing is known."""
    told: int = 0
    """The group in whose name that was said last."""
    plan: tuple[int, int] = (0, 0)
    """A round, and into how many parts all cut their steps for it."""
    averages_timed: bool = False
    """Whether `cost` is of averages in the midst of rounds, not guessed from those at their ends."""
    cost: float = 0.0
    """Seconds that an average inside takes once all are there; 0: not timed."""
    waits: list[float] = []
    """The longest wait for the others in each of the last rounds, in seconds."""
    pace: float = 0.0
    """Seconds that this node's steps took in the last round."""
    failures: int = 0
    """Groups in a row that came to nothing."""
    rest_until: int = 0
    """The round before which no other group is tried."""
    due: float = 0.0
    """When the round that was opened last is to close."""
    patience: float = 0.0
    """Seconds that it had in all."""

"""What a reducer knows of rounds that several nodes reduce."""

import msgspec

from agents.reducer.shard_works import ReduceShard, ShardReduced
from schemas.ids import NodeId
from schemas.shards import AverageOrdered, AverageShard, PieceHere
from schemas.training import RoundOpened


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an offer, and who has it."""

    node: NodeId
    here: PieceHere


class Collected(msgspec.Struct, kw_only=True):
    """What this node's own works hold of an offer."""

    digest: str
    pieces: dict[int, PieceHere]


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """The average that one node has made of its pieces."""

    average: AverageShard
    norm: float
    apart: dict[NodeId, float] = msgspec.field(default_factory=dict)


class ShardState(msgspec.Struct, kw_only=True):
    """All that concerns shards."""

    pieces: int = 1
    """That vectors are cut in; 1: one node reduces, and the rest of this is unused."""
    opening: RoundOpened | None = None
    """The newest that was heard: who reduces what."""
    collected: dict[str, Collected] = msgspec.field(default_factory=dict)
    """By the offer's key; what works hold, until it is released."""
    followed: tuple[int, ...] = ()
    """Pieces whose streams this node takes in."""
    order: AverageOrdered | None = None
    """What the open round's average is made of, once that is decided."""
    reduced: tuple[int, int] = (0, -1)
    """The (round, term) whose order this node has begun to carry out."""
    ahead: ReduceShard | None = None
    """What this node makes before it is ordered."""
    made: ShardReduced | None = None
    """That, once it is made."""
    anticipates_from: int = 0
    """The round from which on averages are made ahead again, after one that was not ordered so."""
    averages: dict[NodeId, Shard] = msgspec.field(default_factory=dict)
    """Of the round that this node has open."""
    asked: int = 0
    """Times that an average without a second holder was offered again."""
    unfit: dict[NodeId, int] = msgspec.field(default_factory=dict)
    """Nodes that were in a round's way, and the round from which on they may reduce a shard again."""
    rates: dict[NodeId, float] = msgspec.field(default_factory=dict)
    """Bytes a second of each node's uploads, smoothed."""

    def forget_round(self) -> None:
        """The open round's averages are of no use any more."""
        self.order, self.averages, self.asked, self.ahead, self.made = None, {}, 0, None, None

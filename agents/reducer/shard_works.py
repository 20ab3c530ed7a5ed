"""The heavy work of a round that several nodes reduce, and how it ends."""

import msgspec

from agents.effects import Work
from agents.inputs import Result
from agents.reducer.works import Part, Treated
from schemas.aggregation import Aggregation
from schemas.ids import NodeId
from schemas.jobs import AverageEncoding
from schemas.shards import OrderedPart, PieceHere
from schemas.training import Average


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A piece to collect."""

    piece: int
    size: int
    digest: str


class CollectPieces(Work, frozen=True, kw_only=True):
    """Get some pieces of a contribution: what was streamed, and what is missing from its node. Check and decode them.

    Ends in `PiecesCollected`, or in `CollectFailed`.
    """

    contributor: NodeId
    round: int
    key: str
    digest: str
    """Of the offer."""
    pieces: tuple[Wanted, ...]


class PiecesCollected(Result, frozen=True, kw_only=True):
    """They are here, whole and sound."""

    contributor: NodeId
    round: int
    digest: str
    pieces: tuple[PieceHere, ...]


class Weigh(Work, frozen=True, kw_only=True):
    """Decide what each contribution of a round counts, from the lengths of all its pieces."""

    round: int
    term: int
    parts: tuple[Part, ...]
    digests: tuple[str, ...]
    """Of the parts' offers."""
    squares: tuple[tuple[float, float], ...]
    """Of each part's parameters and buffers: squares of L2 norms."""
    aggregation: Aggregation


class Weighed(Result, frozen=True, kw_only=True):
    """What each counts, and what is to be told of it."""

    round: int
    term: int
    parts: tuple[OrderedPart, ...]
    treated: tuple[Treated, ...]
    aggregation: Aggregation


class ReduceShard(Work, frozen=True, kw_only=True):
    """Average the collected pieces of these numbers, encode the result once, keep it and stream it."""

    round: int
    term: int
    parts: tuple[OrderedPart, ...]
    pieces: tuple[int, ...]
    encoding: AverageEncoding
    aggregation: Aggregation
    extent: float = 1.0
    """What the average is multiplied by."""
    ahead: bool = False
    """It is not ordered yet."""


class ShardReduced(Result, frozen=True, kw_only=True):
    """The average of a shard is made, kept and on its way."""

    round: int
    term: int
    average: Average
    pieces: tuple[int, ...]
    apart: dict[NodeId, float] = msgspec.field(default_factory=dict)
    """Where each node has one vote: squares of the distances of their votes from it."""
    ahead: bool = False
    """Of `ReduceShard`."""

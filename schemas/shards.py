"""Rounds that several nodes reduce: how the vector is cut, and what is said of the pieces.

The flat vector that a round exchanges is cut in pieces, the same ones in every round of a job. Each node's difference
travels piece by piece, every piece to who reduces it; the pieces that one node reduces are its shard, of which it publishes
the average. So nobody has to receive everybody's whole differences over one link (a reduce-scatter and an all-gather, as in
Rabenseifner's all-reduce, 2004, but over a star).
"""

import hashlib
from collections.abc import Iterable

import msgspec

from schemas.aggregation import Aggregation
from schemas.fragments import parts_of
from schemas.ids import JobId, NodeId
from schemas.jobs import AverageEncoding, JobRequest
from schemas.wire import Delivery, Message, on_wire

ALIGNMENT = 8192
"""Elements: pieces begin at multiples of it, which whole blocks of every encoding fill (topk chooses 8 of 256 and encodes
them in blocks of 256), so that a vector decodes to the same bits cut or not."""

PIECE_PARAMETERS = 500_000
"""Parameters of a piece by default: half a megabyte in int8, two chunks on the wire."""

LEAST_PARAMETERS = 2_000_000
"""Parameters from which on a vector is cut by default: a smaller one is over most links in about the time that the messages
of several reducers take."""

MOST_BY_DEFAULT = 8
"""Pieces by default: enough to share them out in proportion to the links of four nodes or so."""

WHOLE_VECTORS: tuple[Aggregation, ...] = ("krum", "centered_clip")
"""Methods that measure distances between whole vectors before they can make an average: no node has those of a cut one."""


def pieces_of(request: JobRequest, parameters: int) -> int:
    """Pieces that a job's vectors are cut in; 1 where one node reduces a round, or the model's size isn't known."""
    if request.reducers == 1 or request.sync == "step" or request.aggregation in WHOLE_VECTORS:
        return 1
    exchanged = parameters // parts_of(request, parameters)
    fitting = (exchanged - ALIGNMENT // 2) // ALIGNMENT  # fragments differ by some elements
    by_size = min(MOST_BY_DEFAULT, exchanged // PIECE_PARAMETERS) if exchanged >= LEAST_PARAMETERS else 1
    return max(1, min(fitting, max(by_size, request.reducers or 1)))


def cuts_of(parameters: int, count: int, pieces: int) -> tuple[int, ...]:
    """Where each piece of a vector begins, and its end: `pieces` + 1 places. Buffers are all in the last piece."""
    inner = (parameters * piece // pieces // ALIGNMENT * ALIGNMENT for piece in range(1, pieces))
    return (0, *inner, count)


def digest_of(pieces: Iterable[str]) -> str:
    """The digest of what is in pieces, by theirs in order: SHA-256 of them as text."""
    return hashlib.sha256("".join(pieces).encode()).hexdigest()


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a difference, kept by its node as tensor `delta<number>/<key of the offer>`."""

    size: int
    """Bytes."""
    digest: str
    """SHA-256 of the bytes."""


class PieceHere(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a difference as its reducer has it: squares of L2 norms, which add up over the pieces."""

    piece: int
    trained: float
    """Of its parameters."""
    buffers: float = 0.0
    """Of its floating-point buffers."""
    anchor: float = 0.0
    """Of the anchor at this place."""


@on_wire("shoal.training.{job}.node.{node}.pieces", Delivery.RECORD)
class PiecesReceived(Message, frozen=True, kw_only=True):
    """A node that reduces a shard has its pieces of a contribution, or can't count them."""

    job: JobId
    node: NodeId
    """Who reduces them."""
    contributor: NodeId
    round: int
    digest: str
    """Of the offer."""
    pieces: tuple[PieceHere, ...] = ()
    unsound: str = ""
    """Why they can't be counted (size, shape, not finite); empty: they can."""


class OrderedPart(msgspec.Struct, frozen=True, kw_only=True):
    """One contribution of an average, and what it counts."""

    node: NodeId
    round: int
    digest: str
    weight: float
    """0 to 1; the weights of an average sum to 1."""
    scale: float = 1.0
    """What its parameters are multiplied by: under 1 where they are too long."""
    buffer_scale: float = 1.0
    """The same for its floating-point buffers."""


@on_wire("shoal.training.{job}.node.{node}.ordered", Delivery.RECORD)
class AverageOrdered(Message, frozen=True, kw_only=True):
    """What a round's average is made of: everybody who reduces a shard of it averages these contributions, so weighed."""

    job: JobId
    node: NodeId
    """The round's reducer."""
    round: int
    term: int
    parts: tuple[OrderedPart, ...]
    aggregation: Aggregation
    encoding: AverageEncoding
    extent: float = 1.0
    """What the average is multiplied by; see `RoundClosed`."""


class AverageShard(msgspec.Struct, frozen=True, kw_only=True):
    """Where the average of some pieces is, and what its bytes must be."""

    pieces: tuple[int, ...]
    """In ascending order, as they follow each other in its bytes."""
    key: str
    size: int
    digest: str
    """SHA-256 of the encoded bytes."""
    holders: tuple[NodeId, ...]

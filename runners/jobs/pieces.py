"""Vectors in pieces: encoded one by one for who reduces them, averaged by shards, and put together again.

Pieces begin where blocks of the encodings do, and averaging is elementwise, so that all of this gives the same bits as
doing it whole, but for what is owed of averages: each node remembers that of the shards that it made itself. None of it
takes memory for the vector beyond the payloads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from runners.jobs import robust
from runners.jobs.aggregating import Aggregator, Measured
from runners.jobs.codecs import Decoded, encoded_size
from runners.jobs.error_feedback import ErrorFeedback
from runners.jobs.fragments import Fragment
from runners.jobs.vectors import Joined, Section, Vector, chunks
from schemas.aggregation import Aggregation
from schemas.errors import ShoalError
from schemas.ids import NodeId
from schemas.jobs import AverageEncoding, Encoding
from schemas.shards import AverageShard, OrderedPart, PieceHere, cuts_of

ShardBytes = tuple[AverageShard, bytes | memoryview]
"""A shard of an average, and its bytes."""


@dataclass(frozen=True, slots=True)
class Averaging:
    """How an average is made: by which method, of how many bytes, and what it is multiplied by."""

    method: Aggregation
    encoding: AverageEncoding
    extent: float = 1.0


@dataclass(frozen=True, slots=True)
class Made:
    """The average of a shard: encoded, the norm of its parameters, and the squares of votes' distances from it."""

    payload: bytes
    norm: float
    apart: dict[NodeId, float]


class WrongShape(ShoalError):
    """A difference of another model than this job's, or a piece of one. Attributes: `found`, `wanted` (elements)."""

    def __init__(self, what: str, found: int, wanted: int) -> None:
        super().__init__(
            f"{what} of {found} elements where the model has {wanted}: that node runs another version of the workload"
        )
        self.found = found
        self.wanted = wanted


class Assembled(Joined):
    """A vector that is put together of what payloads hold."""

    def check(self) -> None:
        """Looks at all numbers. Raises a CodecError as `decode`."""
        for place in chunks(self.numel()):
            self[place]


class Pieces:
    """How the vector that a round exchanges is cut."""

    def __init__(self, fragment: Fragment, count: int) -> None:
        """`fragment`: what the round exchanges, in `count` pieces."""
        self._fragment = fragment
        layout = fragment.layout
        self._places = list(pairwise(cuts_of(layout.parameters, layout.count, count)))

    def __len__(self) -> int:
        return len(self._places)

    def largest(self, piece: int) -> int:
        """Bytes that a piece may take: no encoding takes more than float32."""
        return encoded_size(self._count(piece), "float32")

    def encode(
        self,
        delta: Vector,
        encoding: Encoding,
        owed: ErrorFeedback,
        first: Sequence[int] = (),
        made: Callable[[int, bytes], None] | None = None,
    ) -> list[bytes]:
        """The payloads of a difference, with what earlier encodings owed.

        `first` are made before the others, in this order; `made` is told of each as soon as it is.
        """
        payloads: dict[int, bytes] = {}
        for piece in dict.fromkeys((*first, *range(len(self)))):
            place = self._places[piece]
            payloads[piece] = owed.encode_part(Section(delta, *place), encoding, self._fragment.part([place]))
            if made is not None:
                made(piece, payloads[piece])
        return [payloads[piece] for piece in range(len(self))]

    def take_back(self, payloads: Sequence[bytes], owed: ErrorFeedback) -> None:
        """These are not sent: they are owed again."""
        for place, payload in zip(self._places, payloads, strict=True):
            owed.take_back(Decoded(payload), self._fragment.part([place]))

    def decoded(self, payload: bytes | memoryview, piece: int) -> Decoded:
        """One piece of a difference. Raises `CodecError`, or `WrongShape` for another number of elements."""
        values = Decoded(payload)
        if values.numel() != self._count(piece):
            raise WrongShape(f"piece {piece}", values.numel(), self._count(piece))
        return values

    def measure(self, values: Vector, piece: int, anchor: Tensor) -> PieceHere:
        """Squares of lengths of a piece, beside those of the anchor, a whole model's. All of it is looked at.

        Raises:
            CodecError: it isn't finite.
        """
        there = self._fragment.part([self._places[piece]])
        trained = there.layout.parameters
        lengths = [
            robust.norms([each])[0] for each in (Section(values, 0, trained), Section(values, trained, values.numel()))
        ]
        own = robust.norms([Joined([Section(anchor, *ends) for ends in there.ranges])])[0]
        return PieceHere(piece=piece, trained=lengths[0] ** 2, buffers=lengths[1] ** 2, anchor=own**2)

    def average(
        self,
        gathered: Sequence[tuple[OrderedPart, Sequence[Vector]]],
        pieces: Sequence[int],
        how: Averaging,
        owed: ErrorFeedback,
    ) -> Made:
        """The average of some pieces, one after the other; `gathered`: these of each contribution, in the same order."""
        shard = self._fragment.part([self._places[piece] for piece in pieces])
        joined = [(part, Joined(each)) for part, each in gathered]
        average, apart = Aggregator(shard.layout.parameters, shard.layout.count).aggregate_part(joined, how.method)
        measured = Measured(average, shard.layout.parameters)
        payload = owed.encode_part(measured.times(how.extent), how.encoding, shard)
        return Made(payload, measured.norm, apart)

    def together(self, shards: Sequence[ShardBytes]) -> Assembled:
        """A round's average, of all of its shards, decoded where it is looked at.

        Raises:
            CodecError: one is damaged.
            ValueError: they don't make up the vector.
        """
        numbers = sorted(piece for shard, _ in shards for piece in shard.pieces)
        if numbers != list(range(len(self))):
            raise ValueError(f"shards of the pieces {numbers}, where there are {len(self)}")
        parts: dict[int, Section] = {}
        for shard, payload in shards:
            values, wanted = Decoded(payload), sum(self._count(piece) for piece in shard.pieces)
            if values.numel() != wanted:
                raise ValueError(f"a shard of {values.numel()} elements, where its pieces have {wanted}")
            at = 0
            for piece in shard.pieces:
                parts[piece] = Section(values, at, at + self._count(piece))
                at += self._count(piece)
        return Assembled([parts[piece] for piece in numbers])

    def _count(self, piece: int) -> int:
        start, stop = self._places[piece]
        return stop - start

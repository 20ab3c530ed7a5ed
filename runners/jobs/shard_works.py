"""Carries out what the reducer core asks for in rounds that several nodes reduce."""

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence

import msgspec

from agents.inputs import Result
from agents.reducer import shard_works as works
from agents.reducer.works import CollectFailed, Part, Treated
from bus.tensors import Data, TensorBus, TensorUnavailable
from runners.jobs.aggregating import voted
from runners.jobs.averages import Averages
from runners.jobs.codecs import CodecError, Decoded
from runners.jobs.pieces import Averaging, Made, WrongShape
from runners.jobs.session import Session
from runners.jobs.tasks import TorchThread
from schemas.aggregation import Aggregation
from schemas.ids import NodeId
from schemas.shards import OrderedPart, PieceHere

Post = Callable[[Result], None]

# Seconds for all pieces of a contribution to arrive once it is offered; a slow link's come late then, not never.
COLLECT_SECONDS = 120.0

Offered = tuple[NodeId, int, str]
"""Contributor, round and digest of an offer."""


class ShardWorks:
    """Collects pieces, and averages them."""

    def __init__(self, session: Session, tensors: TensorBus, averages: Averages, torch_thread: TorchThread) -> None:
        self._session = session
        self._tensors = tensors
        self._averages = averages
        self._torch = torch_thread
        self.collected: dict[Offered, dict[int, Decoded]] = {}
        """What was collected and not released, by piece."""

    def release(self, node: NodeId, round_: int) -> None:
        """Free the pieces of a contribution."""
        for offered in [offered for offered in self.collected if offered[:2] == (node, round_)]:
            del self.collected[offered]

    async def collect(self, work: works.CollectPieces, post: Post) -> None:
        """Get pieces, all at once. Posts `PiecesCollected` or `CollectFailed`."""
        who = work.contributor, work.round
        pieces = self._session.pieces_of(work.round)
        for wanted in work.pieces:  # before memory for it is set aside
            if not 0 < wanted.size <= pieces.largest(wanted.piece):
                largest = pieces.largest(wanted.piece)
                reason = f"its piece {wanted.piece} is said to take {wanted.size} bytes, where one takes {largest} at most"
                post(CollectFailed(contributor=who[0], round=who[1], reason=reason, unsound=True))
                return
        fetching = [asyncio.ensure_future(self._fetch(work, wanted)) for wanted in work.pieces]
        try:
            payloads = await asyncio.gather(*fetching)
            values, here = await self._torch.run(self._decoded, work, payloads)
        except TensorUnavailable as error:
            post(CollectFailed(contributor=who[0], round=who[1], reason=str(error)))
            return
        except (CodecError, WrongShape) as error:
            post(CollectFailed(contributor=who[0], round=who[1], reason=str(error), unsound=True))
            return
        finally:
            for each in fetching:
                each.cancel()
        # Not in torch's thread, which goes on with work that was stopped: nobody would release what it puts here.
        self.collected.setdefault((*who, work.digest), {}).update(values)
        post(works.PiecesCollected(contributor=who[0], round=who[1], digest=work.digest, pieces=here))

    async def _fetch(self, work: works.CollectPieces, wanted: works.Wanted) -> Data:
        kind = f"delta{wanted.piece}"
        return await self._tensors.fetch(work.contributor, kind, work.key, wanted.size, wanted.digest, COLLECT_SECONDS)

    def _decoded(
        self, work: works.CollectPieces, payloads: Sequence[Data]
    ) -> tuple[dict[int, Decoded], tuple[PieceHere, ...]]:
        """Pieces, and their lengths."""
        pieces, anchor = self._session.pieces_of(work.round), self._session.anchor.values
        values = {w.piece: pieces.decoded(payload, w.piece) for w, payload in zip(work.pieces, payloads, strict=True)}
        return values, tuple(pieces.measure(each, piece, anchor) for piece, each in values.items())  # looks at all of it

    async def weigh(self, work: works.Weigh, post: Post) -> None:
        """What each contribution counts, from all that was measured of it. Posts `Weighed`."""
        norms = [[math.sqrt(each[segment]) for each in work.squares] for segment in (0, 1)]
        scales, treated = await self._torch.run(self._judged, work.parts, norms, work.aggregation, work.round)
        buffers = scales[-1]  # of a model without buffers: those of its parameters, which nothing is multiplied by
        parts = tuple(
            OrderedPart(
                node=part.node, round=part.round, digest=digest, weight=part.weight, scale=scale, buffer_scale=buffer_scale
            )
            for part, digest, scale, buffer_scale in zip(work.parts, work.digests, scales[0], buffers, strict=True)
        )
        post(works.Weighed(round=work.round, term=work.term, parts=parts, treated=treated, aggregation=work.aggregation))

    def _judged(
        self, parts: Sequence[Part], norms: Sequence[Sequence[float]], method: Aggregation, round_: int
    ) -> tuple[list[list[float]], tuple[Treated, ...]]:
        if method in ("mean", "clip"):
            return self._session.aggregator(round_).judge(parts, norms, clip=method == "clip")
        return [[1.0] * len(parts)], voted(parts, norms[0])

    async def reduce(self, work: works.ReduceShard) -> works.ShardReduced:
        """Average collected pieces, and keep the average under a name of its own."""
        gathered = [
            (part, [self.collected[part.node, part.round, part.digest][piece] for piece in work.pieces])
            for part in work.parts
        ]
        made = await self._torch.run(self._made, work, gathered)
        name = f"{work.round}-{work.term}-{hashlib.sha256(made.payload).hexdigest()[:8]}"
        average = msgspec.structs.replace(self._averages.keep(name, made.payload), norm=made.norm)
        return works.ShardReduced(
            round=work.round, term=work.term, average=average, pieces=work.pieces, apart=made.apart, ahead=work.ahead
        )

    def _made(self, work: works.ReduceShard, gathered: Sequence[tuple[OrderedPart, Sequence[Decoded]]]) -> Made:
        how = Averaging(work.aggregation, work.encoding, work.extent)
        return self._session.pieces_of(work.round).average(gathered, work.pieces, how, self._session.owed_average)

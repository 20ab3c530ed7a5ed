"""What a simulated process holds of rounds that several nodes reduce: pieces and averages, played by delays."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from agents.inputs import Result
from agents.reducer import shard_works as sharding
from agents.reducer.works import CollectFailed, Treated
from runners.simulation.machines import PARAMETERS, digest_of
from schemas.errors import ShoalError
from schemas.shards import OrderedPart, Piece, PieceHere, pieces_of
from schemas.training import Average

if TYPE_CHECKING:
    from runners.simulation.job_process import JobProcess

Finish = Callable[[float, Result | None], None]

# Seconds until a holder that doesn't answer is given up.
FETCH_TIMEOUT = 10.0
# Seconds that an outer step takes on the fastest machine.
OUTER_STEP = 0.05


class ImpossibleWork(ShoalError):
    """A core asked for what its process can't do: average what it hasn't got, for one."""


class PlayedShards:
    """The works of shards of one process."""

    def __init__(self, process: "JobProcess") -> None:
        self._process = process
        self._pieces = pieces_of(process.request, PARAMETERS)
        self._collected: dict[tuple[str, int, str], set[int]] = {}

    def cut(self, digest: str, size: int) -> tuple[Piece, ...]:
        """The pieces of a difference; none where it isn't cut."""
        if self._pieces == 1:
            return ()
        return tuple(Piece(size=size // self._pieces, digest=digest_of(digest, n)) for n in range(self._pieces))

    def release(self, parts: Iterable[tuple[str, int]]) -> None:
        """Free the pieces of contributions."""
        for part in parts:
            for key in [key for key in self._collected if key[:2] == part]:
                del self._collected[key]

    def carry_out(self, work: Any, finish: Finish) -> None:
        """What the reducer core asks for."""
        match work:
            case sharding.CollectPieces():
                self._collect(work, finish)
            case sharding.Weigh():
                self._weigh(work, finish)
            case sharding.ReduceShard():
                self._reduce(work, finish)

    def _collect(self, work: sharding.CollectPieces, finish: Finish) -> None:
        process = self._process
        holder = process.holder((work.contributor,), lambda other: work.key in other.deltas)
        if holder is None:
            reason = "its node doesn't answer"
            finish(FETCH_TIMEOUT, CollectFailed(contributor=work.contributor, round=work.round, reason=reason))
            return
        own = holder is process
        seconds = 0.0 if own else process.machine.transfer_seconds(sum(p.size for p in work.pieces), holder.machine)
        numbers = {wanted.piece for wanted in work.pieces}
        key = work.contributor, work.round, work.digest
        process.after(seconds, lambda: self._collected.setdefault(key, set()).update(numbers))
        here = tuple(PieceHere(piece=number, trained=1.0, anchor=1.0) for number in sorted(numbers))
        finish(
            seconds,
            sharding.PiecesCollected(contributor=work.contributor, round=work.round, digest=work.digest, pieces=here),
        )

    def _weigh(self, work: sharding.Weigh, finish: Finish) -> None:
        if any(trained != self._pieces for trained, _ in work.squares):
            raise ImpossibleWork(f"{self._process.machine.name} was asked to judge contributions by some of their pieces")
        parts = tuple(
            OrderedPart(node=part.node, round=part.round, digest=digest, weight=part.weight)
            for part, digest in zip(work.parts, work.digests, strict=True)
        )
        told = tuple(Treated(node=p.node, round=p.round, weight=p.weight, norm=self._pieces**0.5) for p in parts)
        weighed = sharding.Weighed(
            round=work.round, term=work.term, parts=parts, treated=told, aggregation=work.aggregation
        )
        finish(0.0, weighed)

    def _reduce(self, work: sharding.ReduceShard, finish: Finish) -> None:
        process, name = self._process, self._process.machine.name
        for part in work.parts:
            if not set(work.pieces) <= self._collected.get((part.node, part.round, part.digest), set()):
                raise ImpossibleWork(f"{name} was asked to average pieces of {part.node}'s that it hasn't collected")
            if process.turn(part.round) != process.turn(work.round):
                raise ImpossibleWork(f"{name} was asked to average another fragment in round {work.round}")
        digest = digest_of(process.job, work.round, work.term, name, work.parts, work.pieces)
        process.averages.add(digest)
        size = process.bytes_of(work.encoding, work.round) * len(work.pieces) // self._pieces
        average = Average(key=f"{work.round}-{work.term}", size=size, digest=digest, holders=(name,), norm=1.0)
        finish(
            OUTER_STEP,
            sharding.ShardReduced(round=work.round, term=work.term, average=average, pieces=work.pieces, ahead=work.ahead),
        )

"""Carries out what the reducer core asks for: following streams, collecting, averaging."""

import hashlib
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from agents.effects import Work
from agents.inputs import Result
from agents.reducer import shard_works, works
from bus.tensors import Data, TensorBus, TensorUnavailable
from runners.jobs.averages import Averages
from runners.jobs.codecs import CodecError, Decoded
from runners.jobs.pieces import WrongShape
from runners.jobs.session import Session
from runners.jobs.shard_works import ShardWorks
from runners.jobs.tasks import KeyedTasks, TorchThread
from schemas.ids import NodeId

Post = Callable[[Result], None]

# Seconds for a contribution to arrive in whole once it is offered; a slow link's comes late then, not never.
COLLECT_SECONDS = 120.0


class ReducerWorks:
    """The work runner of a reducer's host."""

    def __init__(
        self,
        session: Session,
        tensors: TensorBus,
        averages: Averages,
        torch_thread: TorchThread,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._session = session
        self._tensors = tensors
        self._averages = averages
        self._torch = torch_thread
        self._tasks = KeyedTasks(failed)
        self.collected: dict[tuple[NodeId, int], Decoded] = {}
        """Contributions that were collected and not released."""
        self._releases = itertools.count()
        self._shards = ShardWorks(session, tensors, averages, torch_thread)

    def start(self, key: str, work: Work, post: Post) -> None:
        """Begin a piece of work."""
        if isinstance(work, works.Release):  # of two under one key in one turn of the loop the second would be left out
            key = f"{key}/{next(self._releases)}"
        run: dict[type[Work], Callable[[Any, Post], Coroutine[Any, Any, None]]] = {
            works.Follow: self._follow,
            works.Collect: self._collect,
            works.Reduce: self._reduce,
            works.Release: self._release,
            shard_works.CollectPieces: self._shards.collect,
            shard_works.Weigh: self._shards.weigh,
            shard_works.ReduceShard: self._reduce_shard,
        }
        self._tasks.start(key, run[type(work)](work, post))

    def stop(self, key: str, reason: str) -> None:
        """End a piece of work; following a kind of tensor is one that goes on until it is stopped."""
        if key == "follow" or key.startswith("follow/"):
            kind = key.partition("/")[2] or "delta"
            self._tasks.start(f"unfollow/{kind}", self._tensors.unfollow(kind))
        self._tasks.stop(key)

    async def close(self) -> None:
        """End all work."""
        await self._tasks.close()

    async def _follow(self, work: works.Follow, post: Post) -> None:
        await self._tensors.follow(work.kind)

    async def _collect(self, work: works.Collect, post: Post) -> None:
        begun = time.monotonic()
        who = work.contributor, work.round
        largest = self._session.largest(work.round)
        if not 0 < work.size <= largest:  # before memory for it is set aside
            reason = f"it is said to take {work.size} bytes, where a difference takes {largest} at most"
            post(works.CollectFailed(contributor=who[0], round=who[1], reason=reason, unsound=True))
            return
        try:
            payload = await self._tensors.fetch(
                work.contributor, "delta", work.key, work.size, work.digest, COLLECT_SECONDS
            )
            self.collected[who], faint = await self._torch.run(self._decoded, payload, work.round)
        except TensorUnavailable as error:
            post(works.CollectFailed(contributor=who[0], round=who[1], reason=str(error)))
            return
        except (CodecError, WrongShape) as error:
            post(works.CollectFailed(contributor=who[0], round=who[1], reason=str(error), unsound=True))
            return
        seconds = time.monotonic() - begun
        post(works.Collected(contributor=who[0], round=who[1], size=work.size, seconds=seconds, faint=faint))

    def _decoded(self, payload: Data, round_: int) -> tuple[Decoded, bool]:
        """A difference, and whether it is faint."""
        delta = self._session.decoded(payload, round_)
        return delta, self._session.is_faint(delta, round_)

    async def _reduce(self, work: works.Reduce, post: Post) -> None:
        gathered = [(part, self.collected[part.node, part.round]) for part in work.parts]
        how = work.aggregation, work.encoding, work.round, work.extent
        payload, treated, norm = await self._torch.run(self._session.average, gathered, *how)
        name = f"{work.round}-{work.term}-{hashlib.sha256(payload).hexdigest()[:8]}"
        average = msgspec.structs.replace(self._averages.keep(name, payload), norm=norm)
        post(works.Reduced(round=work.round, term=work.term, average=average, treated=treated))
        self._tasks.start(f"stream/{name}", self._stream(name))

    async def _reduce_shard(self, work: shard_works.ReduceShard, post: Post) -> None:
        done = await self._shards.reduce(work)
        post(done)
        self._tasks.start(f"stream/{done.average.key}", self._stream(done.average.key))

    async def _stream(self, name: str) -> None:
        await self._tensors.stream("average", name)

    async def _release(self, work: works.Release, post: Post) -> None:
        for node, round_ in work.parts:
            self.collected.pop((node, round_), None)
            self._shards.release(node, round_)

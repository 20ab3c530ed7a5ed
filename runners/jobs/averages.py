"""The last few averages of a job that are held here, so that others can fetch them and late appliers find them."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from typing import Protocol

from bus.tensors import Data, TensorBus, TensorUnavailable
from schemas.ids import NodeId
from schemas.shards import AverageShard
from schemas.training import Average

# Rounds whose averages are kept for whoever is behind: the newest, and as many as a trainer applies one by one before it
# takes a snapshot.
KEPT = 5
# Bytes of averages kept beyond those of the last two rounds, which somebody may be applying: of a large model a snapshot
# is little more than two of them, and nodes shouldn't need memory for five.
KEPT_BYTES = 32 * 1024 * 1024
# Seconds for one holder to come up with an average before the next holder is asked.
FETCH_SECONDS = 60.0


class Nearby(Protocol):
    """Nodes of this one's site, among whom an average needs to come over a link once only."""

    async def receive(self, average: Average | AverageShard) -> Data | None:
        """The bytes of an average from them; None where it has to be fetched. They may be other bytes."""

    def kept(self, name: str, payload: Data) -> None:
        """An average is held here now."""


class Averages:
    """Gets averages and keeps the last ones, under the names that their makers gave them."""

    def __init__(self, tensors: TensorBus, node: NodeId) -> None:
        self._tensors = tensors
        self._node = node
        self._kept: OrderedDict[str, dict[str, tuple[str, Data]]] = OrderedDict()
        """By round, the one that was added to last at the end, and by digest."""
        self._coming: dict[str, asyncio.Task[Data]] = {}
        self._near: set[str] = set()
        """Digests of those held that came from nearby."""
        self.nearby: Nearby | None = None

    def keep(self, name: str, payload: Data) -> Average:
        """Hold an average, or a shard of one, that was made here or fetched; forgets those of the oldest round.

        Names begin with the round's number and a dash.
        """
        held = self._tensors.keep("average", name, payload)
        round_ = name.partition("-")[0]
        self._kept.setdefault(round_, {})[held.digest] = (name, payload)
        self._kept.move_to_end(round_)
        while len(self._kept) > KEPT or (len(self._kept) > 2 and self._bytes > KEPT_BYTES):
            _, oldest = self._kept.popitem(last=False)
            self._near.difference_update(oldest)
            for old, _ in oldest.values():
                self._tensors.drop("average", old)
        if self.nearby is not None:
            self.nearby.kept(name, payload)
        return Average(key=name, size=held.size, digest=held.digest, holders=(self._node,))

    @property
    def _bytes(self) -> int:
        return sum(len(payload) for of_round in self._kept.values() for _, payload in of_round.values())

    def here(self, digest: str) -> Data | None:
        """The bytes of an average that is held here."""
        return next((of_round[digest][1] for of_round in self._kept.values() if digest in of_round), None)

    def of_round(self, number: int) -> Data | None:
        """The bytes of a round's average, whichever is held here."""
        return next((payload for _, payload in self._kept.get(str(number), {}).values()), None)

    def came_from_nearby(self, digest: str) -> bool:
        """Whether an average that is held here took no link."""
        return digest in self._near

    def arrived(self, average: Average | AverageShard) -> tuple[float, float | None]:
        """When an average began to come, streamed perhaps before anybody spoke of it, and when all of it was here
        (`time.monotonic`); now and None where nothing of it is here."""
        spans = (self._tensors.arrived(holder, "average", average.key) for holder in average.holders)
        return next((span for span in spans if span is not None), (time.monotonic(), None))

    async def shards(self, average: Average) -> list[tuple[AverageShard, Data]]:
        """The bytes of all shards of an average that several nodes made. Raises `TensorUnavailable` as `get`."""
        return list(zip(average.shards, await asyncio.gather(*map(self.get, average.shards)), strict=True))

    async def get(self, average: Average | AverageShard) -> Data:
        """The bytes of an average, from here or from the first holder that has it; held here afterwards.

        Who asks for one that is on its way already waits for the same transfer.

        Raises:
            TensorUnavailable: no holder came up with it.
        """
        payload = self.here(average.digest)
        if payload is not None:
            return payload
        coming = self._coming.get(average.digest)
        if coming is None:
            coming = asyncio.ensure_future(self._fetch(average))
            self._coming[average.digest] = coming
            coming.add_done_callback(lambda done: self._arrived(average.digest, done))
        return await asyncio.shield(coming)

    async def close(self) -> None:
        """Give up what is on its way."""
        coming = list(self._coming.values())
        for transfer in coming:
            transfer.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    def _arrived(self, digest: str, transfer: "asyncio.Task[Data]") -> None:
        self._coming.pop(digest, None)
        if not transfer.cancelled():
            transfer.exception()  # whoever waits is told; it may be nobody any more

    async def _fetch(self, average: Average | AverageShard) -> Data:
        payload = await self.nearby.receive(average) if self.nearby is not None else None
        if payload is not None and hashlib.sha256(payload).hexdigest() == average.digest:
            self._near.add(average.digest)
            self.keep(average.key, payload)
            return payload
        failure: TensorUnavailable | None = None
        for holder in average.holders:
            if holder == self._node:
                continue
            try:
                payload = await self._tensors.fetch(
                    holder, "average", average.key, average.size, average.digest, FETCH_SECONDS
                )
            except TensorUnavailable as error:
                failure = error
                continue
            self.keep(average.key, payload)
            return payload
        raise failure or TensorUnavailable(f"nobody holds average {average.key} any more")

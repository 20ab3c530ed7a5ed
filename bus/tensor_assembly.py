"""One tensor on its way in: chunks put into their places as they come, and the hash of the whole."""

import asyncio
import hashlib
import zlib

from bus.tensor_frames import chunk_of, chunks_of
from bus.tensor_memory import room_for

_OFF_LOOP = 4 * 1024 * 1024  # bytes from which hashing (1 GB/s) would hold up the loop for more than 4 ms


class Incoming:
    """One tensor's chunks.

    Attributes:
        total: bytes.
        content: what its chunks' headers must say it is.
        missing: chunks that have not come.
        wanted: how many callers wait for it; with none it may be evicted.
        broadcasting: whether its sender is streaming it now; None where that isn't known.
        moves: grows whenever something of it has come, or may never come.
        begun_at, last_at: when it was asked for or its first chunk came, and when the last did (`time.monotonic`).
        longest_gap: seconds between two chunks.
        counted: bytes that took the time from `begun_at` on.
        ends: lanes over which its stream has ended.
        unacknowledged: bytes of the stream that its sender hasn't been told of.
    """

    def __init__(self, total: int, content: bytes) -> None:
        self.total = total
        self.content = content
        self.chunk = chunk_of(total)
        self.missing = chunks_of(total)
        self.wanted = 0
        self.broadcasting: bool | None = None
        self.moves = 0
        self._moved = asyncio.Event()
        self.begun_at: float | None = None
        self.last_at = 0.0
        self.longest_gap = 0.0
        self.counted = 0
        self.ends = 0
        self.unacknowledged = 0
        self.ack_timer: asyncio.TimerHandle | None = None
        self._data = room_for(total)
        self._here = bytearray(self.missing)  # 1 for each chunk that has come
        self._checks = [0] * self.missing
        self._lowest = self.missing
        self._whole_up_to = 0  # chunks from the beginning without a gap
        self._hashed = 0  # bytes
        self._hash = hashlib.sha256()
        self._hashing: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[memoryview | None] | None = None
        self._result: memoryview | None = None

    def move(self) -> None:
        """Wake whoever waits for it."""
        self.moves += 1
        self._moved.set()

    async def moved(self, since: int) -> None:
        """Returns once `moves` is no longer `since`: what happened while a caller was busy elsewhere counts."""
        while self.moves == since:
            self._moved.clear()
            await self._moved.wait()

    def begin(self, now: float) -> None:
        """Somebody asked for it now."""
        if self.begun_at is None:
            self.begun_at = self.last_at = now

    def size_of(self, index: int) -> int:
        """Bytes of one chunk; 0 where there is no such chunk."""
        return max(0, min(self.chunk, self.total - index * self.chunk)) if index >= 0 else 0

    def has(self, index: int) -> bool:
        """Whether a chunk has come."""
        return bool(self._here[index])

    def take(self, index: int, data: memoryview, check: int, now: float) -> bool:
        """One chunk has come; whether it was new."""
        if self.begun_at is None:
            self.begun_at = now  # nobody asked: when the first chunk set out isn't known
        else:
            self.counted += len(data)
            self.longest_gap = max(self.longest_gap, now - self.last_at)
        self.last_at = now
        self.move()
        if self._here[index]:
            return False
        self._data[index * self.chunk : index * self.chunk + len(data)] = data
        self._here[index] = 1
        self._checks[index] = check
        self._lowest = min(self._lowest, index)
        self.missing -= 1
        return True

    @property
    def position(self) -> int:
        """How far it is, in bytes of the stream: what came before this follower began to listen counts as there."""
        return min(self.total, (self._lowest + len(self._here) - self.missing) * self.chunk)

    def hash_ahead(self) -> None:
        """Hash what has come without a gap, on another thread, so that little is left to do when the last chunk comes."""
        if self._hashing is None and self._ready() - self._hashed >= _OFF_LOOP:
            self._hashing = asyncio.get_running_loop().create_task(self._hash_more(self._ready()))

    def _ready(self) -> int:
        gap = self._here.find(0, self._whole_up_to)
        self._whole_up_to = gap if gap >= 0 else len(self._here)
        return min(self.total, self._whole_up_to * self.chunk)

    async def _hash_more(self, up_to: int) -> None:
        part = self._data[self._hashed : up_to]
        await asyncio.to_thread(self._hash.update, part)
        self._hashed = up_to
        self._hashing = None

    async def whole(self, digest: str) -> memoryview | None:
        """All bytes, not copied, if their SHA-256 is right; else the damaged chunks are forgotten. Several may wait for it.

        It goes on when one of them gives up: a hash that was broken off in another thread's midst would be nobody's.
        """
        if self._result is None and not self.missing:
            if self._checking is None:
                self._checking = asyncio.get_running_loop().create_task(self._check(digest))
            return await asyncio.shield(self._checking)
        return self._result

    async def _check(self, digest: str) -> memoryview | None:
        try:
            self._result = await self._checked(digest)
        finally:
            self._checking = None
        return self._result

    async def _checked(self, digest: str) -> memoryview | None:
        if self._hashing is not None:
            await self._hashing
        rest = self._data[self._hashed :]
        if len(rest) >= _OFF_LOOP:
            await asyncio.to_thread(self._hash.update, rest)
        else:
            self._hash.update(rest)
        self._hashed = self.total
        if self._hash.hexdigest() == digest:
            return self._data.toreadonly()
        await self._forget_damaged()
        return None

    async def _forget_damaged(self) -> None:
        damaged = await asyncio.to_thread(self._damaged)
        # No chunk contradicts its own check: somebody sent other data under this name. Nothing of it can be trusted.
        for index in damaged or range(len(self._here)):
            self._here[index] = 0
        self.missing = self._here.count(0)
        self._hash, self._hashed, self._whole_up_to = hashlib.sha256(), 0, 0

    def _damaged(self) -> list[int]:
        size = self.chunk
        return [i for i, check in enumerate(self._checks) if zlib.crc32(self._data[i * size : (i + 1) * size]) != check]

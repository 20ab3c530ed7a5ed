"""The journal of an agent that has standbys: a log on the bus, which the leader writes and the others read.

What a leader takes in is on the log before its effects begin. The log grows only from the end that its writer knows: a
leader that was replaced while it stood still finds that out with the next page, before anything that it decided since has
had an effect. From time to time a snapshot goes to the object store, and the pages before it are forgotten.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from bus.port import Bus, BusError, Unreachable
from runners.journal import LIMIT, Decided, Done, Entry, Journal, Life, Recovered, Snapshot, framed

log = logging.getLogger("shoal.replicas")

# Bytes of a page at most: far under what a server takes in one message (1 MiB), and soon over a bad link.
PAGE = 256 * 1024
# Seconds between attempts while the server is out of reach; the carrier's own time-out comes on top.
RETRY = 0.5
# Seconds of silence after which a leader writes an empty page: a quarter of what its standbys wait.
BEAT = 0.3
# Seconds since its last page was begun for which a leader trusts that it still leads without asking. Streams know a name
# for 120 s, so what a replaced leader sends again is dropped; the server ends a connection that is silent for 40 s.
TRUST = 20.0
# Replicas of an agent at most: each looks at the snapshots of all.
MOST = 5


class Page(msgspec.Struct, frozen=True, array_like=True):
    """What is appended to the log at once."""

    index: int
    """Counts the pages of a log, from 1: one that is missing shows."""
    incarnation: int
    """Of the leader that wrote it."""
    ended: bool
    """The leader's last: it ended in good order, and nobody need wait for it."""
    frames: bytes
    """Records, as a journal has them on file."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot in the object store, and where the log goes on after it."""

    index: int
    after: int
    snapshot: Snapshot


_PAGE = msgspec.msgpack.Decoder(Page)
_KEPT = msgspec.msgpack.Decoder(Kept)
_ENCODE = msgspec.msgpack.Encoder().encode
decode_page = _PAGE.decode


class SharedJournal:
    """One replica's hand on the journal; see `runners.journaled.Keeper`. What is noted is kept after the next `commit`.

    A copy of it is on this machine's disk, for `shoal replay`.

    Attributes:
        index, after: of the last page, by count and by the log's own sequence.
        founded: whether there is a snapshot that others can begin with.
    """

    def __init__(self, name: str, replica: int, bus: Bus, folder: Path, *, limit: int = LIMIT, copied: bool = True) -> None:
        self.name = name
        self.folder = folder
        self.index = 0
        self.after = 0
        self.incarnation = 0
        self.founded = False
        self._replica = replica
        self._bus = bus
        self._log = bus.log(name)
        self._limit = limit
        self._copy = Journal(folder, limit) if copied else None
        self._copying = False
        self._token = uuid.uuid4().hex
        self._pages = 0
        self._buffer: list[bytes] = []
        self._outgoing: list[bytes] = []
        self._snapshot: Snapshot | None = None
        self._size = 0
        self._lock = asyncio.Lock()
        self._saving: asyncio.Task[None] | None = None
        self._clock: Callable[[], float] = asyncio.get_running_loop().time
        self._begun = self._clock()

    # What a core notes.

    @property
    def full(self) -> bool:
        """Whether it is time for a snapshot."""
        return self._size >= self._limit

    def load(self) -> Recovered | None:
        """What this machine's copy holds, from a time without standbys; where a log is kept, that counts instead."""
        return self._copy.load() if self._copy is not None else None

    def append(self, entry: Entry) -> None:
        """Note an input."""
        self._buffer.append(framed(entry))

    def done(self, numbers: list[int]) -> None:
        """Note that the effects of these inputs are carried out."""
        self._buffer.append(framed(Done(numbers)))

    def decided(self, first: int, sums: bytes) -> None:
        """Note what consecutive inputs led to."""
        self._buffer.append(framed(Decided(first, sums)))

    def begin(self, settings: bytes) -> None:
        """Note that a process leads."""
        self._buffer.append(framed(Life(settings)))

    def flush(self) -> None:
        """Leave what was noted to the next `commit`."""
        self._size += sum(map(len, self._buffer))
        self._outgoing += self._buffer
        self._buffer = []

    def rotate(self, snapshot: Snapshot) -> None:
        """Let a snapshot take the place of all pages up to the next `commit`."""
        self.flush()
        self._snapshot = snapshot
        self._size = 0

    def close(self) -> None:
        """Leave the rest to the last `commit`."""
        self.flush()

    # What is kept.

    async def commit(self) -> None:
        """Return once all that was noted is kept. Raises `Superseded`: a standby leads now, and nothing of it counts."""
        async with self._lock:
            outgoing, self._outgoing = self._outgoing, []
            snapshot, self._snapshot = self._snapshot, None
            for frames in _parts(outgoing):
                await self._write(frames)
                self.copy(frames)
            if snapshot is not None:
                self.copy_from(snapshot)
                if self._saving is None or self._saving.done():
                    self._saving = asyncio.ensure_future(self._save(Kept(self.index, self.after, snapshot)))

    async def lead(self, incarnation: int) -> None:
        """Take the lead: from the end that was read, or not at all. Raises `Superseded` where the log has gone on."""
        self.incarnation = incarnation
        async with self._lock:
            await self._write(b"")

    async def found(self, snapshot: Snapshot) -> None:
        """Keep the state that a leader begins with, so that others can follow. Raises `BusError`."""
        await self._put(Kept(self.index, self.after, snapshot))
        self.founded = True

    async def beat(self) -> None:
        """Tell the standbys all the time that the leader lives. Raises `Superseded`."""
        while True:
            await asyncio.sleep(BEAT)
            if self._clock() - self._begun >= BEAT and not self._lock.locked():
                async with self._lock:
                    await self._write(b"")

    async def assure(self) -> None:
        """Return once it is sure that this replica led a moment ago. Raises `Superseded`."""
        while self._clock() - self._begun > TRUST:
            async with self._lock:
                await self._write(b"")

    async def end(self) -> None:
        """The leader goes: the next may take over at once."""
        if self._saving is not None:
            await asyncio.wait([self._saving])
        async with self._lock:
            await self._write(b"", ended=True)

    async def newest(self) -> Kept | None:
        """The newest snapshot that any replica has put; every one is of a state that all agreed on."""
        found: list[Kept] = []
        for replica in range(1, MOST + 1):
            with contextlib.suppress(KeyError, msgspec.DecodeError):
                found.append(_KEPT.decode(await self._bus.get_object(_object(self.name, replica))))
        self.founded = bool(found)
        return max(found, key=lambda kept: kept.index, default=None)

    def copy_from(self, snapshot: Snapshot) -> None:
        """This machine's copy goes on after a snapshot."""
        if self._copy is not None:
            if not self._copying:
                self._copy.load()
            self._copying = True
            self._copy.rotate(snapshot)

    def copy(self, frames: bytes) -> None:
        """Add records to this machine's copy."""
        if self._copy is not None and self._copying and frames:
            self._copy.put(frames)
            self._copy.flush()

    @property
    def copy_full(self) -> bool:
        """Whether it is time for `copy_from`."""
        return self._copy is not None and self._copy.full

    def leave(self) -> None:
        """Let go of this machine's copy."""
        if self._saving is not None:
            self._saving.cancel()
        if self._copy is not None:
            self._copy.close()

    async def _write(self, frames: bytes, ended: bool = False) -> None:
        """Append a page, however long the server is out of reach."""
        self._pages += 1
        name = f"{self.name}:{self._replica}:{self._token}:{self._pages}"
        index = self.index + 1
        page = _ENCODE(Page(index, self.incarnation, ended, frames))
        while True:
            begun = self._clock()
            try:
                self.after = await self._log.append(page, after=self.after, name=name)
            except Unreachable:
                await asyncio.sleep(RETRY)
                continue
            self.index = index
            self._begun = begun
            return

    async def _save(self, kept: Kept) -> None:
        try:
            await self._put(kept)
        except BusError as error:  # the log stays as long as it is; the next snapshot tries again
            log.warning("%s: its snapshot was not kept: %s", self.name, error)
        else:
            await self._log.trim(kept.after)

    async def _put(self, kept: Kept) -> None:
        await self._bus.put_object(_object(self.name, self._replica), _ENCODE(kept))


async def forget(name: str, bus: Bus) -> None:
    """Give up what replicas of an agent shared: it goes on without standbys, from its own journal. Raises `Unreachable`."""
    for replica in range(1, MOST + 1):
        with contextlib.suppress(KeyError):
            if await bus.get_object(_object(name, replica)):
                await bus.put_object(_object(name, replica), b"")
    await bus.log(name).trim(None)


def _object(name: str, replica: int) -> str:
    return f"journal/{name}/{replica}"


def _parts(frames: list[bytes]) -> list[bytes]:
    """Frames together, as long as they fit one page."""
    parts: list[bytes] = []
    size = PAGE
    for frame in frames:
        if size + len(frame) > PAGE:
            parts.append(b"")
            size = 0
        parts[-1] += frame
        size += len(frame)
    return parts

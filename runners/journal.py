"""Every input of a core, in order, in a bounded local file: what a restarted agent finds its state in again.

The input is on file before its effects begin; a mark follows once they are all done. So after a kill an input without a
mark has its effects carried out again, under the same ids and names, which streams and receivers take for what they are:
duplicates. When the file has grown to its limit, a snapshot of the state takes the place of the entries, which move to
`past/` with the snapshot that they began from: `shoal replay` reads them there, nothing else does.

What is written survives the process, not a power cut: entries are handed to the operating system in one write per batch
and forced to the disk with each snapshot alone. A torn or damaged tail is cut off when the journal is opened.
"""

import contextlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import msgspec

from schemas.errors import FAULTS, ShoalError

# Bytes of entries before a snapshot replaces them: some 40,000 inputs, read back in about a second.
LIMIT = 8 * 1024 * 1024
# Bytes of entries and snapshots that are kept beyond their use, for replays: some 160,000 inputs of each agent.
PAST = 32 * 1024 * 1024
# Raised when the meaning of the file changes; a journal of a format that isn't known is refused, not guessed at.
FORMAT = 2
_READABLE = (1, 2)  # format 1 said nothing of lives and decisions
_FRAME = struct.Struct("<II")
_LARGEST = 256 * 1024 * 1024
"""Bytes of one frame: a length beyond it is damage, not data."""


class JournalUnreadable(ShoalError):
    """A journal or its snapshot can't be read by this version of the program. Attributes: `folder`, `why`."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(f"the journal in {folder} can't be read ({why}): move the folder away to start afresh")
        self.folder = folder
        self.why = why


class JournalUnwritable(ShoalError):
    """The disk took no more. Attributes: `folder`, `why`."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(f"the journal in {folder} can't be written ({why}): free some space, then start again")
        self.folder = folder
        self.why = why


class Entry(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """One input as the core got it."""

    number: int
    """Counts all inputs of a core over all its lives, from 1."""
    kind: str
    body: bytes
    now: float
    cause: str
    id: str
    """The message's id, by which a second delivery is known; empty for other inputs."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """The effects of these inputs are carried out."""

    numbers: list[int]


class Decided(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """What consecutive inputs led to, as sums that a replay compares with its own."""

    first: int
    """Number of the first of the inputs."""
    sums: bytes
    """Four bytes an input: see `runners.journaled.sum_of`."""


class Life(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """A process takes the core on; what follows was decided by it, and what came before was handled again by it."""

    settings: bytes
    """The core's settings, msgpack; empty where it has none."""


class TimerSet(msgspec.Struct, frozen=True, array_like=True):
    """A timer that was set when a snapshot was taken."""

    kind: str
    body: bytes
    at: float
    cause: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="s"):
    """All that a core and its host know after input `number`."""

    format: int = FORMAT
    number: int
    now: float
    incarnation: int
    sequence: int
    """Messages that this incarnation has sealed."""
    state: bytes
    random: bytes
    """State of the core's generator, msgpack."""
    timers: list[TimerSet]
    seen: list[str]
    """Ids of the last messages, oldest first."""


@dataclass
class Recovered:
    """What a journal holds at its opening."""

    snapshot: Snapshot
    entries: list[Entry] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    """Numbers of entries whose effects were all carried out."""
    damaged: int = 0
    """Bytes that were cut off: a torn tail."""


Record = Entry | Done | Decided | Life | Snapshot
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Record)


class Journal:
    """The journal of one core, in a folder of its own. Entries are buffered until `flush`.

    The owner sees to it that no second process opens the same folder.
    """

    def __init__(self, folder: Path, limit: int = LIMIT, past: int = PAST) -> None:
        self.folder = folder
        self.limit = limit
        self._past = past
        self._buffer: list[bytes] = []
        self._file: FileIO | None = None
        self._size = 0
        self._began: int | None = None
        """Number of the snapshot that the entries on file come after."""

    def load(self) -> Recovered | None:
        """What an earlier life left, None where there was none. Call once, before anything is written.

        Raises:
            JournalUnreadable: the snapshot is damaged or of another format.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        snapshot = read_snapshot(self.folder / "snapshot")
        if snapshot is None:
            return None
        self._began = snapshot.number
        recovered = Recovered(snapshot)
        for path in self._logs():
            good = 0
            for record, end in frames(path):
                good = end
                if isinstance(record, Entry) and record.number > snapshot.number:
                    recovered.entries.append(record)
                elif isinstance(record, Done):
                    recovered.done.update(record.numbers)
            torn = path.stat().st_size - good
            if torn:
                recovered.damaged += torn
                os.truncate(path, good)
        self._open(self._log(snapshot.number))
        return recovered

    def append(self, entry: Entry) -> None:
        """Note an input; on file after the next `flush`."""
        self._put(entry)

    def done(self, numbers: list[int]) -> None:
        """Note that the effects of these inputs are carried out; on file after the next `flush`."""
        self._put(Done(numbers))

    def decided(self, first: int, sums: bytes) -> None:
        """Note what consecutive inputs led to; on file after the next `flush`."""
        self._put(Decided(first, sums))

    def begin(self, settings: bytes) -> None:
        """Note that a process takes the core on; on file after the next `flush`."""
        self._put(Life(settings))

    def put(self, frames: bytes) -> None:
        """Note records that are framed already; on file after the next `flush`."""
        self._buffer.append(frames)

    def flush(self) -> None:
        """Hand what is buffered to the operating system, in one write.

        Raises:
            JournalUnwritable: the disk is full or gone; what is on file stays whole, what is buffered stays buffered.
        """
        if not self._buffer or self._file is None:
            return
        data = b"".join(self._buffer)
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes written")
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise JournalUnwritable(self.folder, str(error)) from error
        self._buffer.clear()
        self._size += len(data)

    @property
    def full(self) -> bool:
        """Whether the entries have reached the limit: time for `rotate`."""
        return self._size >= self.limit

    def rotate(self, snapshot: Snapshot) -> None:
        """Let a snapshot take the place of all entries up to now, whose effects must all be done."""
        self.flush()
        path = self.folder / "snapshot"
        fresh = self.folder / "snapshot.new"
        with fresh.open("wb") as file:
            file.write(framed(snapshot))
            file.flush()
            os.fsync(file.fileno())
        if self._began not in (None, snapshot.number):
            self._set_aside(path, f"snapshot-{self._began:020d}")
        fresh.replace(path)
        _sync_folder(self.folder)
        self._began = snapshot.number
        self._open(self._log(snapshot.number))
        for old in self._logs():
            if old != self._log(snapshot.number):
                self._retire(old)
        self._prune()

    def close(self) -> None:
        """Write what is buffered and let go of the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, record: Record) -> None:
        self._buffer.append(framed(record))

    def _open(self, path: Path) -> None:
        if self._file is not None:
            self._file.close()
        self._file = FileIO(path, "ab")
        self._size = path.stat().st_size

    def _log(self, number: int) -> Path:
        return self.folder / f"inputs-{number:020d}"

    def _logs(self) -> list[Path]:
        return sorted(self.folder.glob("inputs-*"))

    # What is kept for replays. A replay that lacks something says so; a journal that can't be written must stop its agent.

    def _set_aside(self, snapshot: Path, name: str) -> None:
        """Keep a copy of the snapshot that is about to be replaced."""
        with contextlib.suppress(OSError):
            (self.folder / "past").mkdir(exist_ok=True)
            shutil.copyfile(snapshot, self.folder / "past" / name)

    def _retire(self, log: Path) -> None:
        """Entries that a snapshot has taken the place of go to the past."""
        try:
            log.replace(self.folder / "past" / log.name)
        except OSError:
            log.unlink()

    def _prune(self) -> None:
        with contextlib.suppress(OSError):
            files = sorted((self.folder / "past").glob("*-*"), key=lambda path: path.name.partition("-")[2])
            size = sum(path.stat().st_size for path in files)
            for path in files:
                if size <= self._past:
                    break
                size -= path.stat().st_size
                path.unlink()


def read_snapshot(path: Path) -> Snapshot | None:
    """The snapshot in a file; None where there is no file. Raises `JournalUnreadable`."""
    if not path.exists():
        return None
    for record, _ in frames(path):
        if isinstance(record, Snapshot):
            if record.format not in _READABLE:
                raise JournalUnreadable(path.parent, f"format {record.format}, this program writes {FORMAT}")
            return record
    raise JournalUnreadable(path.parent, "its snapshot is damaged")


def framed(record: Record) -> bytes:
    """A record as it is on file: length and CRC-32, then its bytes."""
    body = _ENCODER.encode(record)
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def frames(path: Path) -> Iterator[tuple[Record, int]]:
    """The records of a file with the offsets where they end, up to the first that is not whole."""
    return frames_in(path.read_bytes())


def frames_in(data: bytes) -> Iterator[tuple[Record, int]]:
    """The same of bytes."""
    start = 0
    while start + _FRAME.size <= len(data):
        size, crc = _FRAME.unpack_from(data, start)
        end = start + _FRAME.size + size
        body = data[start + _FRAME.size : end]
        if size > _LARGEST or end > len(data) or zlib.crc32(body) != crc:
            return
        try:
            record = _DECODER.decode(body)
        except FAULTS:
            return
        yield record, end
        start = end


def _sync_folder(folder: Path) -> None:
    """Force a rename to the disk, where the system lets a folder be opened for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""A journal as `shoal replay` reads it: all that is still there of a core's past, without touching any of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runners.journal import Decided, Entry, Life, Record, Snapshot, frames, read_snapshot


@dataclass
class Chapter:
    """What came after one snapshot, up to the next."""

    snapshot: Snapshot
    lives: list[tuple[Life | None, list[Entry]]] = field(default_factory=list)
    """What each process took, in order; None: the process is that of the chapter before, or of an older program."""
    sums: dict[int, bytes] = field(default_factory=dict)
    """Of what inputs led to, by their number."""

    @property
    def last(self) -> int:
        """Number of the last input in it."""
        return max((entries[-1].number for _, entries in self.lives if entries), default=self.snapshot.number)


def chapters(folder: Path) -> list[Chapter]:
    """What a replay can go through: from the oldest snapshot after which nothing is missing to the end.

    Raises:
        JournalUnreadable: the snapshot is damaged or of another format.
    """
    newest = read_snapshot(folder / "snapshot")
    if newest is None:
        return []
    past = folder / "past"
    found: list[Chapter] = []
    for path in sorted(past.glob("snapshot-*")):
        snapshot = read_snapshot(path)
        assert snapshot is not None
        found.append(_chapter(snapshot, [past / f"inputs-{snapshot.number:020d}"]))
    found.append(_chapter(newest, sorted(folder.glob("inputs-*"))))
    for place in range(len(found) - 1, 0, -1):
        if found[place - 1].last != found[place].snapshot.number:
            return found[place:]
    return found


def _chapter(snapshot: Snapshot, logs: list[Path]) -> Chapter:
    chapter = Chapter(snapshot, [(None, [])])
    for record in _records(logs):
        if isinstance(record, Life):
            chapter.lives.append((record, []))
        elif isinstance(record, Decided):
            for place in range(len(record.sums) // 4):
                chapter.sums[record.first + place] = record.sums[4 * place : 4 * place + 4]
        elif isinstance(record, Entry) and record.number > snapshot.number:
            chapter.lives[-1][1].append(record)
    return chapter


def _records(logs: list[Path]) -> Iterator[Record]:
    for path in logs:
        if path.exists():
            for record, _ in frames(path):
                yield record

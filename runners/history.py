"""History in SQLite: what was said, how nodes did. One writer, the recorder; any process of the machine may read.

Rows are committed in batches, by a timer that is set only while rows wait. The write-ahead log lets readers in at any
time. A power cut may lose the last commits (`synchronous=NORMAL`), never the file.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import msgspec

from runners import history_schema as schema
from schemas.errors import DecodeError, ShoalError
from schemas.wire import Message, decode, wire_for

# Seconds that a row may wait for its commit: one commit a second costs an idle machine next to nothing.
COMMIT_SECONDS = 1.0
# Rows that are committed at once when so many wait: under half of what a host lets be under way.
COMMIT_ROWS = 200
# Rows written between looks at age and size, some hours of an idle fleet.
PRUNE_ROWS = 50_000
# Part of the events and figures that goes when the file is too large.
PRUNE_PART = 10
_DAY = 86_400.0


class HistoryUnreadable(ShoalError):
    """The history's file can't be used. Attributes: `path`, `why`."""

    def __init__(self, path: Path, why: str, mend: str = "move the file away to begin a new one") -> None:
        super().__init__(f"the history in {path} can't be read ({why}): {mend}")
        self.path = path
        self.why = why


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded message."""

    seq: int
    """Order of arrival at the recorder."""
    id: str
    at: float
    subject: str
    type: str
    source: str
    job: str | None
    node: str | None
    round: int | None
    cause: str
    reason: str | None
    body: str

    def message(self) -> Message | None:
        """The message again; None where this version no longer knows its type."""
        wire = wire_for(self.subject)
        if wire is None:
            return None
        try:
            message = decode(wire.type, self.body.encode())
        except DecodeError:
            return None
        return message if isinstance(message, Message) else None


class _Batch:
    """Rows that are committed together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.rows: dict[str, list[tuple[Any, ...]]] = {}
        self.count = 0
        self.committed: asyncio.Future[None] = loop.create_future()
        self.committed.add_done_callback(lambda done: done.exception())  # whoever waits is told; it may be nobody


class History:
    """A history that is open. Make one with `opened`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, days: float, megabytes: float) -> None:
        self.path = path
        self._db = connection
        self._days = days
        self._bytes = megabytes * 1e6
        self._batch: _Batch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._since_pruned = 0

    @classmethod
    async def open(cls, path: Path, *, days: float = 90.0, megabytes: float = 2048.0, read_only: bool = False) -> "History":
        """Open a history, and make it where there is none yet.

        Args:
            path: its file.
            days: age at which rows are deleted.
            megabytes: size beyond which the oldest rows are.
            read_only: for a process other than the recorder's; nothing is made or deleted.

        Raises:
            HistoryUnreadable: it is no history, damaged, or of another version; or, read-only, isn't there.
        """
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise HistoryUnreadable(path, "there is none", "name the store of the `shoal up` whose recorder writes it")
        mode = "?mode=ro" if read_only else ""
        try:
            connection = await aiosqlite.connect(f"{path.resolve().as_uri()}{mode}", uri=True)
        except sqlite3.Error as error:
            raise HistoryUnreadable(path, str(error)) from error
        history = cls(path, connection, days, megabytes)
        try:
            await history._prepare(read_only)
        except sqlite3.Error as error:
            await connection.close()
            raise HistoryUnreadable(path, str(error)) from error
        except HistoryUnreadable:
            await connection.close()
            raise
        return history

    async def _prepare(self, read_only: bool) -> None:
        (version,) = await self._one("PRAGMA user_version")
        (tables,) = await self._one("SELECT count(*) FROM sqlite_master")
        if version != schema.VERSION and (version or tables or read_only):
            raise HistoryUnreadable(self.path, f"version {version}, this program uses {schema.VERSION}")
        if read_only:
            return
        for statement in schema.SETUP:
            await self._db.execute(statement)
        if version != schema.VERSION:
            await self._db.executescript(schema.TABLES)
        await self._db.commit()
        await self.prune(time.time())

    async def close(self) -> None:
        """Commit what waits, then let go of the file."""
        await self.flush()
        await self._db.close()

    # Writing.

    async def store(self, table: str, row: dict[str, Any]) -> None:
        """Keep a row; returns when it is committed. The same row again changes nothing.

        Raises:
            KeyError: there is no such table, or the row lacks a field.
            sqlite3.Error: the disk is full or broken.
        """
        rows = schema.rows_of(table, row)
        if self._batch is None:
            loop = asyncio.get_running_loop()
            self._batch = _Batch(loop)
            self._timer = loop.call_later(COMMIT_SECONDS, self._commit_soon)
        batch = self._batch
        batch.rows.setdefault(table, []).extend(rows)
        batch.count += len(rows)
        if batch.count >= COMMIT_ROWS:
            self._commit_soon()
        await asyncio.shield(batch.committed)

    async def flush(self) -> None:
        """Commit what waits, now."""
        self._commit_soon()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _commit_soon(self) -> None:
        batch, self._batch = self._batch, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if batch is not None:
            task = asyncio.get_running_loop().create_task(self._commit(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _commit(self, batch: _Batch) -> None:
        async with self._writing:
            try:
                for table, rows in batch.rows.items():
                    await self._db.executemany(schema.INSERT[table], rows)
                await self._db.commit()
            except sqlite3.Error as error:
                await self._db.rollback()
                batch.committed.set_exception(error)
                return
            batch.committed.set_result(None)
            self._since_pruned += batch.count
            if self._since_pruned >= PRUNE_ROWS:
                await self.prune(time.time())

    async def prune(self, now: float) -> None:
        """Delete what is too old, and the oldest where the file is too large."""
        self._since_pruned = 0
        for table, column in schema.AGED:
            await self._db.execute(f"DELETE FROM {table} WHERE {column} < ?", (now - self._days * _DAY,))
        await self._db.commit()
        while await self._size() > self._bytes:
            deleted = 0
            for table, column in schema.AGED:
                oldest = f"SELECT {column} FROM {table} ORDER BY {column} LIMIT 1 OFFSET (SELECT count(*)/? FROM {table})"
                cursor = await self._db.execute(f"DELETE FROM {table} WHERE {column} <= ({oldest})", (PRUNE_PART,))
                deleted += cursor.rowcount
            await self._db.commit()
            if deleted == 0:
                break
        await self._db.executescript("PRAGMA incremental_vacuum")  # as a script: `execute` would stop after one page

    async def _size(self) -> float:
        """Bytes in use."""
        (pages,) = await self._one("PRAGMA page_count")
        (free,) = await self._one("PRAGMA freelist_count")
        (size,) = await self._one("PRAGMA page_size")
        return float((pages - free) * size)

    # Reading.

    async def event(self, id: str) -> EventRow | None:
        """The event of an id."""
        rows = await self._events("WHERE id = ?", (id,))
        return rows[0] if rows else None

    async def events(
        self,
        *,
        job: str | None = None,
        node: str | None = None,
        types: Sequence[str] = (),
        since: float = 0.0,
        until: float | None = None,
        limit: int = 10_000,
        newest_first: bool = False,
    ) -> list[EventRow]:
        """Events that fit all that is given, in order of arrival.

        Args:
            job: of this job.
            node: told of this node.
            types: names of message types.
            since: seconds since the epoch by their senders' clocks.
            until: the same.
            limit: the number of rows at most.
            newest_first: the other way round.
        """
        where: list[str] = ["at >= ?"]
        values: list[Any] = [since]
        for column, value in (("job", job), ("node", node)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        if until is not None:
            where.append("at <= ?")
            values.append(until)
        if types:
            where.append(f"type IN ({_marks(types)})")
            values.extend(types)
        order = "DESC" if newest_first else "ASC"
        return await self._events(f"WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?", (*values, limit))

    async def of_job(self, job: str, types: Sequence[str] = (), standing: Sequence[str] = ()) -> list[EventRow]:
        """A job's events, and those of nodes, links and agents from its submission to its end, by their time.

        Args:
            job: its id.
            types: names of the message types wanted; all by default.
            standing: types whose last event of each node before the job's submission comes too.
        """
        (begin, end) = await self._one("SELECT min(at), max(at) FROM events WHERE job = ?", (job,))
        if begin is None:
            return []
        wanted = f"type IN ({_marks(types)}) AND " if types else ""
        where = f"WHERE {wanted}(job = ? OR (job IS NULL AND at BETWEEN ? AND ?)) ORDER BY at, seq"
        rows = await self._events(where, (*types, job, begin, end))
        last = f"SELECT max(seq) FROM events WHERE type IN ({_marks(standing)}) AND at < ? GROUP BY type, node"
        before = await self._events(f"WHERE seq IN ({last}) ORDER BY at, seq", (*standing, begin))
        return before + rows

    async def figures(self, node: str, name: str, since: float = 0.0) -> list[tuple[float, float]]:
        """(at, value) of one of a node's figures, oldest first."""
        sql = "SELECT at, value FROM metrics WHERE node = ? AND name = ? AND at >= ? ORDER BY at"
        return [(at, value) async for at, value in self._rows(sql, (node, name, since))]

    async def statistics(self, node: str) -> dict[str, dict[str, float]]:
        """The last closed window of each of a node's figures."""
        names = ", ".join(schema.STATISTICS)
        sql = f'SELECT name, {names}, max("end") FROM statistics WHERE node = ? GROUP BY name'
        return {
            name: dict(zip(schema.STATISTICS, values, strict=False)) async for name, *values in self._rows(sql, (node,))
        }

    async def _events(self, where: str, values: Iterable[Any]) -> list[EventRow]:
        columns = ", ".join(EventRow.__struct_fields__)
        sql = f"SELECT {columns} FROM events {where}"
        return [
            EventRow(**dict(zip(EventRow.__struct_fields__, row, strict=True))) async for row in self._rows(sql, values)
        ]

    async def _one(self, sql: str, values: Iterable[Any] = ()) -> Any:
        async with self._db.execute(sql, tuple(values)) as cursor:
            return await cursor.fetchone()

    async def _rows(self, sql: str, values: Iterable[Any]) -> AsyncIterator[Any]:
        async with self._db.execute(sql, tuple(values)) as cursor:
            for row in await cursor.fetchall():
                yield row


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[History]:
    """`History.open` with `close` at the end."""
    history = await History.open(path, **options)
    try:
        yield history
    finally:
        await history.close()

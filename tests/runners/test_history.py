"""History in a real SQLite file."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runners import history as module
from runners.history import History, HistoryUnreadable, opened
from schemas.decisions import NodeLost
from schemas.wire import encode, seal, subject_of

NOW = time.time()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "history.db"


@pytest.fixture
async def history(path: Path) -> AsyncIterator[History]:
    async with opened(path) as open_one:
        yield open_one


def an_event(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"x:1:{number}",
        "at": NOW + number,
        "subject": "shoal.test",
        "type": "Test",
        "source": "x",
        "job": "j",
        "node": None,
        "round": number,
        "cause": "",
        "reason": "because",
        "body": "{}",
        **fields,
    }


def a_figure(number: int, **values: float) -> dict[str, Any]:
    return {"node": "a", "at": NOW + number, "job": None, "values": values}


async def put(history: History, table: str, *rows: dict[str, Any]) -> None:
    await asyncio.gather(*(history.store(table, row) for row in rows), history.flush())


async def test_what_is_stored_outlives_the_writer(path: Path) -> None:
    async with opened(path) as history:
        await put(history, "events", an_event(1), an_event(2))
    async with opened(path) as history:
        assert [row.id for row in await history.events()] == ["x:1:1", "x:1:2"]


async def test_a_row_is_committed_before_store_returns(history: History, path: Path) -> None:
    await history.store("events", an_event(1))
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)


async def test_many_rows_are_committed_without_waiting(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_SECONDS", 3600.0)
    async with asyncio.timeout(30):
        await asyncio.gather(*(history.store("events", an_event(n)) for n in range(module.COMMIT_ROWS)))
    assert len(await history.events()) == module.COMMIT_ROWS


async def test_the_same_row_again_changes_nothing(history: History) -> None:
    await put(history, "events", an_event(1), an_event(1), an_event(1, reason="other"))
    (row,) = await history.events()
    assert row.reason == "because"
    await put(history, "metrics", a_figure(1, rtt_ms=5.0), a_figure(1, rtt_ms=5.0))
    assert await history.figures("a", "rtt_ms") == [(NOW + 1, 5.0)]


async def test_events_are_found_by_what_they_are_about(history: History) -> None:
    rows = (
        an_event(1),
        an_event(2, job=None, node="a", type="NodeLost"),
        an_event(3, job="k"),
        an_event(4, node="a"),
    )
    await put(history, "events", *rows)

    async def rounds(**what: Any) -> list[int | None]:
        return [row.round for row in await history.events(**what)]

    assert await rounds(job="j") == [1, 4]
    assert await rounds(node="a") == [2, 4]
    assert await rounds(types=["NodeLost", "Other"]) == [2]
    assert await rounds(since=NOW + 3) == [3, 4]
    assert await rounds(until=NOW + 1) == [1]
    assert await rounds(limit=2, newest_first=True) == [4, 3]
    found = await history.event("x:1:3")
    assert found is not None
    assert (found.job, found.seq) == ("k", 3)
    assert await history.event("x:1:9") is None


async def test_a_jobs_events_come_with_those_of_its_nodes_in_its_time(history: History) -> None:
    rows = (
        an_event(1, job=None, node="a"),
        an_event(4),
        an_event(2),
        an_event(3, job=None, node="a"),
        an_event(3, id="other", job="k"),
        an_event(5, job=None, node="a"),
    )
    await put(history, "events", *rows)
    assert [row.round for row in await history.of_job("j")] == [2, 3, 4]
    assert await history.of_job("nobody") == []


async def test_a_row_becomes_its_message_again(history: History) -> None:
    lost = NodeLost(node="a", silent_seconds=3.0, reason="silence")
    seal(lost, id="s:1:1", cause="c:1:1", at=NOW, source="node_selector")
    body, subject = encode(lost).decode(), subject_of(lost)
    broken = an_event(3, subject=subject, body='{"node": 1}')
    await put(history, "events", an_event(1, body=body, subject=subject), an_event(2), broken)
    assert [row.message() for row in await history.events()] == [lost, None, None]


async def test_windows_of_figures(history: History) -> None:
    window = {"node": "a", "name": "rtt_ms", "count": 60, "deviation": 1.0, "low": 1.0, "high": 9.0, "average": 4.0}
    older, newer = {**window, "start": 1.0, "end": 61.0, "mean": 5.0}, {**window, "start": 61.0, "end": 121.0, "mean": 6.0}
    await put(history, "statistics", newer, older)
    expected = {"count": 60, "mean": 6.0, "deviation": 1.0, "low": 1.0, "high": 9.0, "average": 4.0}
    assert await history.statistics("a") == {"rtt_ms": expected}


async def test_what_is_old_goes(path: Path) -> None:
    async with opened(path) as history:
        await put(history, "events", an_event(1), an_event(-100 * 86_400))
        await put(history, "metrics", a_figure(1, x=1.0), a_figure(-100 * 86_400, x=2.0))
    async with opened(path, days=90) as history:
        assert [row.round for row in await history.events()] == [1]
        assert await history.figures("a", "x") == [(NOW + 1, 1.0)]


async def test_the_oldest_goes_when_the_file_is_too_large(path: Path) -> None:
    body = "x" * 10_000
    async with opened(path) as history:
        await put(history, "events", *(an_event(n, body=body) for n in range(300)))
        assert path.stat().st_size > 0
    full = path.stat().st_size
    async with opened(path, megabytes=1.0) as history:
        rounds = [row.round for row in await history.events()]
    assert rounds == list(range(300 - len(rounds), 300)), "the newest are left"
    assert 50 < len(rounds) < 100
    assert path.stat().st_size < full / 2, "the file gives its space back"


async def test_a_reader_sees_what_is_committed_and_writes_nothing(history: History, path: Path) -> None:
    await put(history, "events", an_event(1))
    async with opened(path, read_only=True) as reader:
        assert len(await reader.events()) == 1
        await put(history, "events", an_event(2))
        assert len(await reader.events()) == 2
        with pytest.raises(sqlite3.OperationalError):
            await put(reader, "events", an_event(3))


async def test_what_cant_be_stored_is_told(history: History) -> None:
    with pytest.raises(KeyError):
        await history.store("no_such_table", {})
    with pytest.raises(KeyError):
        await history.store("events", {"id": "x"})
    await put(history, "events", an_event(1))
    assert len(await history.events()) == 1


@pytest.mark.parametrize("content", ["damaged", "another version", "another program's"])
async def test_a_file_that_is_no_history_is_named(path: Path, content: str) -> None:
    path.parent.mkdir()
    if content == "damaged":
        path.write_bytes(b"SQLite format 3\0" + b"nonsense" * 1000)
    else:
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA user_version = 99" if content == "another version" else "CREATE TABLE t (x)")
    with pytest.raises(HistoryUnreadable, match="move the file away") as caught:
        await History.open(path)
    assert caught.value.path == path


async def test_reading_what_isnt_there(path: Path) -> None:
    with pytest.raises(HistoryUnreadable, match="there is none"):
        await History.open(path, read_only=True)
    assert not path.exists()

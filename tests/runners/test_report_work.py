"""The recorder's heavy work: from a real history to the object store."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from report_story import other_peoples, told

from agents.base import Store
from agents.effects import Work
from agents.inputs import Result, WorkExited
from agents.recorder import Recorder, RecorderSettings, ReportBuilt, ReportWork
from runners.history import History, opened
from runners.report import as_json, build_report, from_json
from runners.report_work import ReportWorks, UnknownWork
from schemas.wire import Message

KEY = "report/demo"


class Shelf:
    """The part of a bus that a report needs."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def put_object(self, name: str, data: bytes) -> None:
        self.objects[name] = data


class FullShelf(Shelf):
    async def put_object(self, name: str, data: bytes) -> None:
        raise OSError("no space left")


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    async with opened(tmp_path / "history.sqlite") as made:
        yield made


async def record(history: History, messages: list[Message]) -> None:
    """As the recorder's host does it."""
    recorder = Recorder(RecorderSettings(history_days=1e6), random.Random(1))
    stores = [e for m in messages for e in recorder.handle(m, m.at) if isinstance(e, Store)]
    await asyncio.gather(*(history.store(e.table, e.row) for e in stores), history.flush())


async def outcome(works: ReportWorks, job: str = "demo") -> Result:
    posted: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    works.start(f"report/{job}", ReportWork(job=job), posted.set_result)
    works.start(f"report/{job}", ReportWork(job=job), posted.set_result)
    async with asyncio.timeout(30):
        return await posted


async def test_a_report_from_history_is_the_one_from_messages(history: History) -> None:
    await record(history, [*told(), *other_peoples()])
    shelf = Shelf()
    works = ReportWorks(history, shelf)  # type: ignore[arg-type]
    built = await outcome(works)
    (data,) = shelf.objects.values()
    assert data == as_json(build_report("demo", told()))
    assert built == ReportBuilt(
        job="demo", name="demo/report.json", size=len(data), digest=hashlib.sha256(data).hexdigest()
    )
    assert list(shelf.objects) == ["demo/report.json"]
    await works.close()


async def test_rows_that_wait_for_their_commit_are_in_the_report(history: History) -> None:
    recorder = Recorder(RecorderSettings(), random.Random(1))
    rows = [e for m in told()[:40] for e in recorder.handle(m, m.at) if isinstance(e, Store)]
    storing = [asyncio.ensure_future(history.store(e.table, e.row)) for e in rows]
    shelf = Shelf()
    built = await outcome(ReportWorks(history, shelf))  # type: ignore[arg-type]
    assert isinstance(built, ReportBuilt)
    assert from_json(shelf.objects["demo/report.json"]).state == "running"
    await asyncio.gather(*storing)


async def test_what_cant_be_done_is_told(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    works = ReportWorks(history, Shelf())  # type: ignore[arg-type]
    failed = await outcome(works, "nobody")
    assert isinstance(failed, WorkExited)
    assert (failed.key, failed.code) == ("report/nobody", 1)
    assert "nothing is known of job 'nobody'" in failed.last_lines[-1]
    assert "nobody" in capsys.readouterr().err
    await record(history, told())
    failed = await outcome(ReportWorks(history, FullShelf()))  # type: ignore[arg-type]
    assert isinstance(failed, WorkExited)
    assert "no space left" in failed.last_lines[-1]
    with pytest.raises(UnknownWork):
        works.start("x", Work(), lambda result: None)


async def test_the_word_that_one_is_done_may_be_answered_with_the_next_under_its_key(history: History) -> None:
    await record(history, told())
    works = ReportWorks(history, Shelf())  # type: ignore[arg-type]
    posted: list[Result] = []
    both: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def post(result: Result) -> None:
        posted.append(result)
        if len(posted) == 2:
            both.set_result(None)
        else:  # on the next turn of the loop the first task has returned, and nobody has said so yet
            asyncio.get_running_loop().call_soon(works.start, KEY, ReportWork(job="demo"), post)

    works.start(KEY, ReportWork(job="demo"), post)
    async with asyncio.timeout(30):
        await both
    assert all(isinstance(result, ReportBuilt) for result in posted)
    await works.close()


async def test_one_that_is_given_up_says_so(history: History) -> None:
    await record(history, told())
    posted: list[Result] = []
    works = ReportWorks(history, Shelf())  # type: ignore[arg-type]
    works.start(KEY, ReportWork(job="demo"), posted.append)
    await works.close()
    works.stop(KEY, "nothing is there any more")
    (given_up,) = posted
    assert isinstance(given_up, WorkExited)
    assert given_up.code == -1

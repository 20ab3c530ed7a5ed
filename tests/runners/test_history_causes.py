"""Why something was decided, out of a real history."""

import asyncio
import random
from pathlib import Path

from report_story import told

from agents.base import Store
from agents.recorder import Recorder, RecorderSettings
from runners.history import History, opened
from runners.history_causes import walk_causes
from schemas.decisions import NodeLost
from schemas.wire import Message, seal


async def record(history: History, messages: list[Message]) -> None:
    recorder = Recorder(RecorderSettings(), random.Random(1))
    stores = [e for m in messages for e in recorder.handle(m, m.at) if isinstance(e, Store)]
    await asyncio.gather(*(history.store(e.table, e.row) for e in stores), history.flush())


async def test_chains_of_a_job_a_node_and_an_event(tmp_path: Path) -> None:
    async with opened(tmp_path / "history.sqlite") as history:
        await record(history, told())
        chains = await walk_causes(history, "demo", last=500)
        smaller = next(chain for chain in chains if chain[0].reason == "cyd's link is poor")
        assert [row.type for row in smaller] == ["Assignment", "LinkQualityChanged"]
        assert [row.type for row in (await walk_causes(history, smaller[0].id))[0]] == ["Assignment", "LinkQualityChanged"]
        (newest,) = await walk_causes(history, "cyd", last=1)
        assert newest[0].reason == "round trips say good for 5 s"
        assert await walk_causes(history, "nobody") == []
        running = next(chain for chain in chains if chain[0].type == "JobState" and chain[0].cause)
        assert [row.type for row in running] == ["JobState", "Roster", "JobState"], "back to the submission"


async def test_a_circle_ends(tmp_path: Path) -> None:
    lost = [NodeLost(node="a", silent_seconds=1, reason=reason) for reason in ("one", "two")]
    for number, message in enumerate(lost):
        seal(message, id=f"x:1:{number}", cause=f"x:1:{1 - number}", at=1e9, source="x")
    async with opened(tmp_path / "history.sqlite") as history:
        await record(history, list(lost))
        ((first, second),) = await walk_causes(history, "x:1:0")
        assert (first.reason, second.reason) == ("one", "two")

"""The past out of a real server's streams and a real history."""

import asyncio
import random
from pathlib import Path

import pytest
from report_story import told
from toy_desk import ToyDesk

from agents.base import Store
from agents.recorder import Recorder, RecorderSettings
from bus.server import EmbeddedServer
from runners.address import NoServer
from runners.history import opened
from runners.known_past import HISTORY_FILE, known_past
from schemas.jobs import JobState
from schemas.wire import Message

STORY = sorted(told(), key=lambda message: message.at)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_SERVER", raising=False)


async def record(store: Path, messages: list[Message]) -> None:
    """What the recorder would keep of them."""
    recorder = Recorder(RecorderSettings(), random.Random(1))
    rows = [effect for m in messages for effect in recorder.handle(m, m.at) if isinstance(effect, Store)]
    async with opened(store / HISTORY_FILE) as history:
        await asyncio.gather(*(history.store(row.table, row.row) for row in rows), history.flush())


def states(events: list[Message]) -> list[str]:
    return [event.state.value for event in events if isinstance(event, JobState)]


async def test_streams_and_history_together_in_order_and_nothing_twice(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        desk = await ToyDesk.open(server.url)
        await desk.tell(STORY)
        await desk.close()
        assert states(await known_past(None, tmp_path)) == ["completed"], "the streams keep the newest state alone"
        await record(tmp_path, STORY)
        past = await known_past(None, tmp_path)
        assert states(past) == ["queued", "running", "completed"]
        assert len({event.id for event in past}) == len(past)
        assert [event.at for event in past] == sorted(event.at for event in past)
        assert states(await known_past(server.url, tmp_path)) == ["completed"], "another fleet's history isn't asked"


async def test_a_fleet_that_is_down_still_explains_itself(tmp_path: Path) -> None:
    await record(tmp_path, STORY)
    assert states(await known_past(None, tmp_path)) == ["queued", "running", "completed"]


async def test_without_server_and_history_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoServer):
        await known_past(None, tmp_path)

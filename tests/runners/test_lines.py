"""Events as plain lines: each thing once."""

import asyncio
import math
from pathlib import Path

import msgspec
import pytest
from report_story import told
from toy_desk import PATIENCE, ToyDesk

from bus.server import EmbeddedServer
from runners.client import connect
from runners.view.lines import Lines
from runners.view.live import watch_fleet
from schemas.jobs import JobPhase, JobState
from schemas.training import RoundClosed, RoundOpened
from schemas.wire import Message


def printed(*messages: Message) -> list[str]:
    said: list[str] = []
    lines = Lines(said.append)
    for message in messages:
        lines.see(message)
    return said


def story(job: str = "demo") -> list[Message]:
    return sorted(told(job), key=lambda message: message.at)


def test_the_story_is_told_in_lines() -> None:
    said = printed(*story())
    assert said.index("job demo queued: waiting for 2 nodes; none is there") < said.index(
        "job demo running: running on 5 nodes"
    )
    for expected in (
        "node_selector: all five are there",
        "batch_controller: by measured speed",
        f"round 1: loss {5.5 * math.exp(-1 / 12):.4f} in 3.5 s, all are there",
        f"ada: held-out loss {5.5 * math.exp(-1 / 12) + 0.15:.4f} after round 1",
        "bob: emulated link, on order: 800 ms for 5 s, by order (good)",
        "dan: no heartbeat for 3 s",
        "cyd: round trips say poor for 5 s",
        "round 18: bob reduces, ada is silent",
        "optimizer: runs again after 0.4 s, with its memory",
        "eve: out of memory; starts again in 1 s",
        "ada: stored the model, 4.0 MB",
        "bus: the server is in reach again after 2 s",
    ):
        assert said.count(expected) == 1, expected
    assert said[-1] == "job demo completed: 25 rounds; the model is stored"
    assert sum(line.startswith("round ") and ": loss " in line for line in said) == 25


def test_what_is_said_again_is_printed_once() -> None:
    once = story()
    twice = [message for message in once for _ in range(2)]
    assert printed(*twice) == printed(*once)


def test_a_round_that_comes_again_later_is_no_news() -> None:
    closed = [message for message in story() if isinstance(message, RoundClosed)]
    assert len(printed(*closed, *closed)) == 25


def test_two_jobs_have_their_own_rounds_and_reducers() -> None:
    both = [message for pair in zip(story("one"), story("two"), strict=True) for message in pair]
    rounds = [message for message in both if isinstance(message, RoundClosed | RoundOpened)]
    assert len([line for line in printed(*rounds) if ": loss " in line]) == 50
    assert len([line for line in printed(*rounds) if "bob reduces" in line]) == 2


def test_a_running_job_speaks_through_its_rounds() -> None:
    running = next(m for m in story() if isinstance(m, JobState) and m.state is JobPhase.RUNNING)
    follow_ups = [msgspec.structs.replace(running, round=n, reason=f"round {n} closed") for n in (1, 2)]
    failed = msgspec.structs.replace(running, state=JobPhase.FAILED, reason="nobody is left")
    assert printed(running, *follow_ups, failed) == [
        "job demo running: running on 5 nodes",
        "job demo failed: nobody is left",
    ]


def test_a_queued_job_says_when_its_reason_changes() -> None:
    queued = next(m for m in story() if isinstance(m, JobState))
    one_there = msgspec.structs.replace(queued, reason="waiting for 2 nodes; 1 is there")
    assert len(printed(queued, queued, one_there)) == 2


async def test_watching_without_a_terminal_prints_lines_until_the_job_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with EmbeddedServer(tmp_path) as server, await connect(server.url) as client:
        desk = await ToyDesk.open(server.url)
        await desk.tell(msgspec.structs.replace(message, id=f"other-{message.id}") for message in story("other"))
        await desk.tell(story())
        async with asyncio.timeout(PATIENCE):
            state = await watch_fleet(client, "demo", until_ended=True)
        await desk.close()
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "job demo completed: 25 rounds; the model is stored"
    assert len([line for line in said if ": loss " in line]) == 25, "the other job's rounds are not shown"
    assert (state.job, state.round, state.state) == ("demo", 25, "completed")

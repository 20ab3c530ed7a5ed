"""Drills but for the harm: whose processes are touched, what is owed, what is counted, and the page that comes of it."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bus import clock
from bus.nats_fill import Streams
from bus.server import EmbeddedServer
from runners.cli.app import app
from runners.client import connect
from runners.drill import accounts, acts
from runners.drill.catalogue import NO_FLEET, NoSuchDrill, chosen, plans
from runners.drill.marking import Marks
from runners.drill.page import page, report_in, spark
from runners.drill.parts import Parts, find_parts, same_process
from runners.drill.results import DrillReport, LossPoint, Result, Surroundings, judged
from runners.drill.undo import Notebook, Owed, put_right
from runners.drill.watching import NotHeard, Watch
from schemas.decisions import AgentStarted
from schemas.jobs import JobPhase
from schemas.training import Average, Contribution, RoundApplied, RoundClosed, RoundOpened
from schemas.wire import Message, seal

ROOT = Path(__file__).parents[2]
WAIT = "import signal; signal.pause()"


def closed(number: int, *nodes: str, id: str = "", made_for: int | None = None) -> RoundClosed:
    """A round to which these nodes contributed."""
    parts = tuple(
        Contribution(node=node, round=made_for or number, late=0, samples=8, weight=1 / len(nodes), loss=1.0)
        for node in nodes
    )
    made = RoundClosed(
        job="j", round=number, term=1, reducer="a", next_reducer="b", contributions=parts, missing=(),
        average=Average(key="k", size=1, digest="d", holders=("a", "b")), samples=8, loss=1.0 / number, seconds=1.0,
        on_time=True, reason="all are there",
    )  # fmt: skip
    return seal(made, id=id or f"reducer/j/a:1:{number}", cause="", at=1.0, source="reducer/j/a")


# What must not be lost.


@given(st.sets(st.integers(1, 50)), st.sets(st.integers(1, 50)), st.sets(st.integers(1, 50)))
def test_marks_are_lost_exactly_where_an_acknowledged_one_is_missing_or_there_twice(
    accepted: set[int], others: set[int], gone: set[int]
) -> None:
    stored = sorted((accepted | others) - gone)
    assert bool(accounts.marks_lost(accepted, stored)) == bool(accepted & gone)
    for number in stored[:1]:
        assert any("twice" in words for words in accounts.marks_lost(accepted, [*stored, number]))


def test_rounds_that_are_gone_closed_twice_or_otherwise_are_told() -> None:
    good = [closed(1, "a", "b"), closed(2, "a"), closed(3, "b")]
    assert accounts.rounds_lost(good, good) == []
    assert accounts.rounds_lost([], []) == []
    assert accounts.rounds_lost([good[0], good[2]], []) == ["1 rounds are gone, the first is 2"]
    assert accounts.rounds_lost([*good, closed(3, "a", id="x:1:1")], []) == ["rounds 3 are closed twice"]
    assert accounts.rounds_lost(good, [closed(2, "a", id="x:1:1")]) == [
        "rounds 2 were closed otherwise than they are stored"
    ]
    late = closed(4, "a", made_for=2)
    assert accounts.rounds_lost([*good, late], []) == ["1 contributions count twice, the first is a's for round 2"]


def test_models_that_differ_and_jobs_that_are_forgotten_or_begin_again_are_told() -> None:
    same = [RoundApplied(job="j", node=node, version=3, digest="d", seconds=0.1) for node in "ab"]
    assert accounts.anchors_differ(same) == []
    other = msgspec.structs.replace(same[0], node="c", digest="e")
    assert accounts.anchors_differ([*same, other]) == ["the nodes' models differ in versions 3"]
    before = {"x": JobPhase.RUNNING, "y": JobPhase.COMPLETED, "z": JobPhase.FAILED}
    assert accounts.jobs_lost(before, before | {"x": JobPhase.COMPLETED, "new": JobPhase.QUEUED}) == []
    after = {"y": JobPhase.RUNNING, "z": JobPhase.FAILED}
    assert accounts.jobs_lost(before, after) == [
        "the desk has forgotten job x",
        "job y had completed and is running now",
    ]


# What is heard.


class Hand:
    """A clock that is put forward by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_watch_knows_when_work_counts_again_by_its_own_clock() -> None:
    hand = Hand()
    watch = Watch(hand)

    def hears(at: float, message: Message) -> None:
        hand.now = at
        watch.take(message, None)

    def opened(number: int) -> RoundOpened:
        made = RoundOpened(
            job="j", node="a", round=number, term=1, deadline_seconds=1.0, expected=("a", "b"), reason="next"
        )
        return seal(made, id=f"o:1:{number}", cause="", at=-3600.0, source="reducer/j/a")

    hears(1.0, opened(5))
    hears(3.0, closed(5, "a", "b"))
    hears(4.0, opened(6))
    waiting = asyncio.ensure_future(watch.contributes("j", "b", since=2.0, within=60.0))
    hears(5.0, closed(6, "a"))
    hears(5.5, closed(6, "a"))  # delivered again
    hears(6.0, closed(7, "a", "b", made_for=6))
    assert await waiting == 6.0
    heard = await watch.rounds("j", 3, 0.0, 60.0)
    assert [h.message.round for h in heard] == [5, 6, 7]
    with pytest.raises(NotHeard, match="the desk is back: not within 0 s"):
        await watch.first(AgentStarted, 0.0, lambda m: True, what="the desk is back", within=0.0)


# Whose processes.


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process that looks like an agent's."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", WAIT, "--replica", "2"])
    yield process
    process.kill()
    process.wait()


def test_only_who_holds_a_lock_of_this_store_is_touched(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    assert find_parts(tmp_path) == Parts(tmp_path)
    (tmp_path / "agents" / "job_desk@2").mkdir(parents=True)
    (tmp_path / "agents" / "optimizer").mkdir()
    (tmp_path / "nodes").mkdir()
    (tmp_path / "server.lock").write_text(str(os.getpid()))
    (tmp_path / "agents" / "job_desk@2" / "lock").write_text(str(child.pid))
    (tmp_path / "agents" / "optimizer" / "lock").write_text("1")  # runs, but isn't this `shoal up`'s
    (tmp_path / "nodes" / "a.lock").write_text(str(child.pid))
    (tmp_path / "nodes" / "old.lock").write_text(str(child.pid))
    os.utime(tmp_path / "nodes" / "old.lock", (1.0, 1.0))  # the number was another's when it was noted
    parts = find_parts(tmp_path)
    assert parts.up is not None
    assert parts.up.pid == os.getpid()
    assert {name: list(replicas) for name, replicas in parts.agents.items()} == {"job_desk": [2]}
    assert parts.nodes.keys() == {"a"}
    assert parts.nodes["a"].watched
    found = parts.leader("job_desk")
    assert found is not None
    assert found[1].pid == child.pid
    assert parts.leader("optimizer") is None
    assert parts.job_process("a") is None
    assert parts.server is None


def test_of_several_replicas_the_one_that_led_last_is_the_leader(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "job_desk.log").write_text("12:00:01 job_desk: replica 1 leads, incarnation 100\n")
    (tmp_path / "logs" / "job_desk@2.log").write_text(
        "12:00:01 job_desk: replica 2 stands by\n12:01:00 job_desk: replica 2 leads, incarnation 205\n"
    )
    process = same_process(child.pid, find_created(child.pid))
    assert process is not None
    parts = Parts(tmp_path, agents={"job_desk": {1: process, 2: process}})
    assert parts.leader("job_desk") == (2, process)


def find_created(pid: int) -> float:
    """When a process began."""
    import psutil  # type: ignore[import-untyped]

    return float(psutil.Process(pid).create_time())


def test_whatever_stands_still_goes_on_even_after_the_drill_was_killed(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    process = same_process(child.pid, find_created(child.pid))
    assert process is not None
    Notebook(tmp_path).pause(process)
    assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
    later = Notebook(tmp_path)
    later.note(job="drill-1")
    assert later.let_go() == [f"process {child.pid} goes on"]
    assert os.WIFCONTINUED(os.waitpid(child.pid, os.WCONTINUED)[1])
    assert Notebook(tmp_path).owed == Owed(job="drill-1")
    later.note(job="")
    assert not later.path.exists()
    assert same_process(child.pid, find_created(child.pid) - 60.0) is None, "another that got its number"


# Clocks.


@pytest.fixture
def right_again() -> Iterator[None]:
    """This process's clock is right afterwards."""
    yield
    clock.skew(0.0)


@pytest.mark.usefixtures("right_again")
def test_a_clock_is_wrong_for_one_life(tmp_path: Path) -> None:
    told, real = tmp_path / "a.skew", time.time
    clock.skew_if_told(told)
    assert time.time is real
    clock.skew_next(told, -3600.0)
    before, monotonic = real(), time.monotonic()
    clock.skew_if_told(told)
    assert before - 3601.0 < time.time() < before
    assert clock.skewed_by() == -3600.0
    assert time.monotonic() >= monotonic
    assert not told.exists()
    clock.skew(0.0)
    assert time.time is real
    told.write_text("half a numb")
    clock.skew_if_told(told)
    assert clock.skewed_by() == 0.0


# Which drills.


def test_drills_are_chosen_by_name_and_say_why_one_cant_be_done(tmp_path: Path) -> None:
    every = plans(Parts(tmp_path), [], 8.0, -3600.0)
    names = [plan.name for plan in every]
    assert len(set(names)) == len(names)
    assert all(plan.impossible for plan in every)
    assert {plan.impossible for plan in every if plan.name == "kill-job_desk"} == {NO_FLEET}
    assert [plan.name for plan in chosen(every, ["kill-server", "cut-*"])] == ["kill-server", "cut-link"]
    assert chosen(every, []) == every
    with pytest.raises(NoSuchDrill, match="no drill is named 'kill-desk'"):
        chosen(every, ["kill-desk"])
    links = plans(Parts(tmp_path), ["far"], 8.0, -3600.0)
    assert [plan.impossible for plan in links if plan.name == "cut-link"] == [""]
    server = next(plan for plan in every if plan.name == "pause-server")
    assert server.gap_limit(2.0) == 20.0, "what stops every round isn't the fleet's fault for as long as it lasts"
    assert next(plan for plan in every if plan.name == "kill-server").act is acts.kill_server


def test_without_a_fleet_nothing_is_done(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["drill", "--yes", "--store", str(tmp_path)])
    assert result.exit_code == 1
    assert "start a fleet with `shoal up --nodes 2`" in result.stderr
    assert not list(tmp_path.iterdir())


# The page.


def result(**fields: Any) -> Result:
    """One drill that went well."""
    given = {
        "name": "kill-node", "does": "node a gets SIGKILL", "goal": "rounds go on", "usual": 0.4, "gap": 3.0, "back": 20.0,
        "gap_limit": 12.0, "rounds": 31, "accepted": 80, "stored_before": 1000, "stored_after": 1400, "loss_before": 0.5,
        "loss_worst": 0.75, "loss_after": 0.25, "curve": (LossPoint(-1.0, 1, 0.5), LossPoint(1.0, 2, 0.25)),
        "said": ("1.2 s  a: taken for dead",),
    }  # fmt: skip
    return Result(**(given | fields))


def report(*results: Result, wrong: tuple[str, ...] = ()) -> DrillReport:
    where = Surroundings(
        machine="Linux x86_64", cpus=2, load_before=1.5, load_after=3.0, python="3.11.7", shoal="0.1.0", torch="2.9.1",
        server="2.15.1", nodes=("a (of `shoal up`)",), replicas=1,
    )  # fmt: skip
    return DrillReport(
        drill="drill-1", command="shoal drill --yes", date="2026-01-01 00:00 UTC", where=where, job="train-1",
        own_job=False, seconds=120.0, results=results, wrong=wrong,
        checked=("the nodes' digests of 40 versions of the model",),
    )  # fmt: skip


def test_goals_are_judged_by_their_limits() -> None:
    assert judged(result()).good
    assert judged(result(gap=12.5)).missed == ("rounds stood still for 12.5 s (goal 12.0 s)",)
    assert judged(result(back=61.0)).missed == ("back after 61.0 s (goal 60.0 s)",)
    assert judged(result(gap=99.0, skipped="no node")).good
    assert not judged(result(lost=("1 rounds are gone",))).good
    assert not report(result(), wrong=("the nodes' models differ",)).good


def test_the_page_says_what_was_found_and_holds_the_report() -> None:
    skipped = Result(name="cut-link", does="a link is cut", goal="rounds go on", skipped="no link is emulated")
    made = report(
        result(), judged(result(name="kill-server", gap=99.0)), result(name="x", lost=("1 rounds are gone",)), skipped
    )
    text = page(made)
    assert "3 drills, 1 met their goals; not kill-server, x." in text
    assert "| `kill-node` | met | 3.0 s (12 s) | 20.0 s (60 s) | 31 | 80, 0, 0 | 0.5, 0.75, 0.25 |" in text
    assert "`cut-link`: no link is emulated." in text
    assert "Lost: 1 rounds are gone." in text
    assert "`█|▁`" in text
    assert report_in(text) == made
    with pytest.raises(ValueError, match="not made by"):
        report_in("# Reliability")


def test_a_flat_curve_and_none_are_drawn_too() -> None:
    assert spark(()) == ""
    assert spark([LossPoint(-1.0, 1, 0.5), LossPoint(0.0, 2, 0.5)]) == "▁|▁"


def test_the_page_in_docs_is_what_a_drill_has_written() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    assert text == page(report_in(text)), "docs/reliability.md is made by `shoal drill --report`, not by hand"


# With a real server.


async def test_marks_that_a_full_store_refused_arent_lost_and_the_next_drill_puts_it_right(tmp_path: Path) -> None:
    async with (
        EmbeddedServer(tmp_path) as server,
        Streams(server.url, None) as streams,
        await connect(server.url, name="drill") as client,
    ):
        marks = Marks(client)
        await marks.say("the store", "is filled")
        notebook = Notebook(tmp_path)
        before = await streams.limits()
        notebook.note(limits=before)
        await streams.fill()
        await marks.say("the store", "is full")
        assert (marks.accepted, marks.refused) == ({1}, 1)
        later = Notebook(tmp_path)  # the drill was killed just then
        assert await put_right(later, client, streams) == ["the streams have their limits again"]
        assert await streams.limits() == before
        assert Notebook(tmp_path).owed == Owed()
        async with marks.counting():
            pass
        await marks.say("the store", "has room again")
        stored = await marks.stored()
        assert 2 not in stored
        assert accounts.marks_lost(marks.accepted, stored) == []

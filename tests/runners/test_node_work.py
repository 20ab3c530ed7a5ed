"""The work runner of a node with real processes and real signals."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest

from agents.effects import Work
from agents.inputs import Result, WorkExited, WorkLines
from agents.node import AbortWork, MachineSampled, SampleMachine, TrainingWork, policy
from agents.node.works import EXIT_NOT_STARTED
from bus.processes import wait_gone
from runners.jobs.spec import JobSpec
from runners.node_work import NodeWorks, NodeWorksConfig, UnknownWork
from runners.process_lines import ProcessLines
from schemas.jobs import JobRequest

KEY = "job/j"
# Seconds that a test waits for what must happen: a starved machine takes some, a broken program for ever.
PATIENCE = 30.0
R = TypeVar("R", bound=Result)

ECHO = """
import json, os, sys
path = sys.argv[sys.argv.index("--spec") + 1]
print(os.stat(path).st_mode & 0o777, flush=True)
text = open(path).read()
for start in range(0, len(text), 900):  # a line is bounded
    print(text[start : start + 900], flush=True)
print(os.environ["OMP_NUM_THREADS"], os.nice(0), os.getpgrp() == os.getpid())
"""
# Prints `ready`, then waits for a signal.
WAIT = "import signal\nprint('ready')\nsignal.pause()"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready')\nwhile True: signal.pause()"
HUNG = """
import threading
def stuck_here():
    lock.acquire()
lock = threading.Lock()
lock.acquire()
print("ready")
stuck_here()
"""
HELPER = """
import subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(helper.pid)
"""


class Posts:
    """Results as they come in."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._news = asyncio.Event()

    def __call__(self, result: Result) -> None:
        self.results.append(result)
        self._news.set()

    async def wait_for(self, kind: type[R], fits: Callable[[R], bool] = lambda result: True) -> R:
        async with asyncio.timeout(PATIENCE):
            while True:
                for result in self.results:
                    if isinstance(result, kind) and fits(result):
                        return result
                self._news.clear()
                await self._news.wait()

    def lines(self) -> list[str]:
        return [line for result in self.results if isinstance(result, WorkLines) for line in result.lines]

    async def until_printed(self, line: str) -> None:
        await self.wait_for(WorkLines, lambda result: line in result.lines)


def a_work(**fields: Any) -> TrainingWork:
    return TrainingWork(job="j", request=JobRequest(kind="train", workload="m:w", rounds=7), attempt=1, **fields)


class Node:
    """A work runner whose job processes are small scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.posts = Posts()
        self.made: list[NodeWorks] = []

    def works(self, script: str, **config: Any) -> NodeWorks:
        argv = (sys.executable, "-c", script)
        told = {"node": "me", "server": "nats://127.0.0.1:4222", "folder": self.folder}
        fields = told | {"argv": argv, "fork_argv": None} | config
        self.made.append(NodeWorks(NodeWorksConfig(**fields)))
        return self.made[-1]

    async def exit_of(self, script: str, **config: Any) -> WorkExited:
        self.works(script, **config).start(KEY, a_work(), self.posts)
        return await self.posts.wait_for(WorkExited)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "works")
    yield made
    for works in made.made:
        await works.close()
    assert list(made.folder.glob("*")) == [], "what processes were told is gone with them"


@pytest.fixture(autouse=True)
def others() -> set[int]:
    """Children that other tests of this session have running (a fleet of theirs, say)."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children())
    return OTHERS


OTHERS: set[int] = set()


def children() -> list[psutil.Process]:
    """The processes that this test has started."""
    return [child for child in psutil.Process().children() if child.pid not in OTHERS]


def the_process(node: Node) -> psutil.Process:
    (child,) = children()
    return child


async def test_a_process_is_told_its_job_and_heard(node: Node) -> None:
    exited = await node.exit_of(ECHO, slowdown=2.5, token_file=Path("/t"), app_dir=Path("/a"))
    assert (exited.key, exited.code) == (KEY, 0)
    mode, *told, environment = node.posts.lines()
    assert int(mode) == 0o600, "the token's place is nobody else's business"
    spec = msgspec.json.decode("".join(told), type=JobSpec)
    assert (spec.job, spec.node, spec.request.rounds, spec.slowdown) == ("j", "me", 7, 2.5)
    assert (spec.server, spec.token_file, spec.app_dir) == ("nats://127.0.0.1:4222", "/t", "/a")
    assert environment == f"1 {min(19, os.nice(0) + 10)} True"
    assert isinstance(node.posts.results[-1], WorkExited), "all it printed comes before its exit"


async def test_the_last_lines_of_a_traceback_come_with_the_exit(node: Node) -> None:
    script = "for i in range(100): print('line', i)\nraise ValueError('no such shape')"
    exited = await node.exit_of(script)
    assert exited.code == 1
    assert len(exited.last_lines) == 50
    assert exited.last_lines[-1] == "ValueError: no such shape"
    assert policy.failure(exited.code, exited.last_lines).kind == "raised"
    assert node.posts.lines()[:2] == ["line 0", "line 1"], "what it printed is in its order, errors after it"


async def test_a_key_at_work_is_left_alone(node: Node) -> None:
    works = node.works(WAIT)
    works.start(KEY, a_work(), node.posts)
    works.start(KEY, a_work(), node.posts)
    await node.posts.until_printed("ready")
    works.start(KEY, a_work(), node.posts)
    the_process(node)
    works.stop(KEY, "enough")
    works.stop(KEY, "enough")
    exited = await node.posts.wait_for(WorkExited)
    assert exited.code == -signal.SIGTERM
    works.stop(KEY, "nothing is there any more")
    works.start(KEY, a_work(), posts := Posts())
    await posts.until_printed("ready")


async def test_one_that_ignores_the_request_is_killed_after_the_grace(node: Node) -> None:
    works = node.works(STUBBORN, grace=0.2)
    works.start(KEY, a_work(), node.posts)
    await node.posts.until_printed("ready")
    works.stop(KEY, "enough")
    assert (await node.posts.wait_for(WorkExited)).code == -signal.SIGKILL


async def test_one_that_is_stopped_before_it_runs_ends_too(node: Node) -> None:
    works = node.works(WAIT)
    works.start(KEY, a_work(), node.posts)
    works.stop(KEY, "changed my mind")
    assert (await node.posts.wait_for(WorkExited)).code == -signal.SIGTERM


async def test_a_kill_from_outside_is_an_exit(node: Node) -> None:
    node.works(WAIT).start(KEY, a_work(), node.posts)
    await node.posts.until_printed("ready")
    the_process(node).kill()
    exited = await node.posts.wait_for(WorkExited)
    assert exited.code == -signal.SIGKILL
    assert policy.failure(exited.code, exited.last_lines).kind == "killed"


async def test_one_that_hangs_tells_where(node: Node) -> None:
    works = node.works(HUNG)
    works.start(KEY, a_work(), node.posts)
    await node.posts.until_printed("ready")
    works.start("abort/j", AbortWork(target=KEY), node.posts)
    works.stop(KEY, "it hangs")
    exited = await node.posts.wait_for(WorkExited)
    assert exited.code == -signal.SIGABRT
    assert any("in stuck_here" in line for line in exited.last_lines)


async def test_helpers_of_a_process_dont_outlive_it(node: Node) -> None:
    exited = await node.exit_of(HELPER)
    assert exited.code == 0
    assert wait_gone(int(node.posts.lines()[0]), PATIENCE)


async def test_a_program_that_isnt_there_is_an_exit(node: Node) -> None:
    works = node.works("", argv=("/no/such/program",))
    works.start(KEY, a_work(), node.posts)
    exited = await node.posts.wait_for(WorkExited)
    assert exited.code == EXIT_NOT_STARTED
    assert "/no/such/program" in exited.last_lines[-1]
    assert policy.failure(exited.code, exited.last_lines).kind == "start"


async def test_closing_ends_all(node: Node) -> None:
    works = node.works(STUBBORN, grace=0.2)
    for job in ("j", "k"):
        works.start(f"job/{job}", TrainingWork(job=job, request=a_work().request, attempt=1), node.posts)
    async with asyncio.timeout(PATIENCE):
        await works.close()
    assert children() == []
    assert len([r for r in node.posts.results if isinstance(r, WorkExited)]) == 2


async def test_the_machine_is_looked_at(node: Node) -> None:
    works = node.works("")
    works.start("sample", SampleMachine(), node.posts)
    sample = await node.posts.wait_for(MachineSampled)
    assert 0 < sample.memory_used_bytes < psutil.virtual_memory().total
    assert 0 <= sample.cpu_percent <= 100


async def test_what_the_owner_needs_is_looked_at_where_that_is_asked(node: Node) -> None:
    works = node.works("")
    for number in range(3):
        works.start(f"sample-{number}", SampleMachine(owner=number > 0), node.posts)
        await node.posts.wait_for(MachineSampled, lambda _, n=number: len(node.posts.results) > n)
    unasked, first, second = (result for result in node.posts.results if isinstance(result, MachineSampled))
    assert (unasked.owner_cpu_percent, first.owner_cpu_percent) == (None, None), "a share of what went by since the last"
    assert second.owner_cpu_percent is None or 0 <= second.owner_cpu_percent <= 100


async def test_other_work_is_refused(node: Node) -> None:
    with pytest.raises(UnknownWork):
        node.works("").start("x", Work(), node.posts)


# What is printed, without a process.


def a_stream(*chunks: bytes) -> asyncio.StreamReader:
    stream = asyncio.StreamReader()
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    return stream


async def test_lines_survive_odd_bytes_and_progress_bars() -> None:
    posts = Posts()
    lines = ProcessLines(KEY, posts)
    await lines.read(a_stream("gr\u00fc".encode()[:3], "\u00fc\n".encode()[1:], b"10%\r20%\r\n\n\xff\nlast"))
    lines.close()
    assert posts.lines() == ["gr\u00fc", "10%", "20%", "\ufffd", "last"]


async def test_a_flood_is_bounded_and_counted() -> None:
    posts = Posts()
    lines = ProcessLines(KEY, posts)
    await lines.read(a_stream(b"x\n" * 1200, b"y" * 5000 + b"\n"))
    lines.close()
    (batch,) = posts.results
    assert isinstance(batch, WorkLines)
    assert len(batch.lines) == 501
    assert batch.lines[-1].startswith("[701 lines left out")
    assert lines.last[-1] == "y" * 1000

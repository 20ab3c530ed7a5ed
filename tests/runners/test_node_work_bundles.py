"""The work runner of a node and jobs that bring their code, with real processes."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from test_node_work import KEY, Posts

from agents.inputs import WorkExited
from agents.node import BundleArriving, TrainingWork, policy
from agents.node.works import EXIT_BUNDLE, EXIT_BUS, EXIT_DECLINED
from bus.port import Unreachable
from runners.bundles.keys import own_signer
from runners.bundles.shelf import Fetch, Shelf
from runners.bundles.submitting import Packed, make_bundle
from runners.bundles.trust import distrust, trust
from runners.jobs import bounds
from runners.node_work import NodeWorks, NodeWorksConfig
from schemas.jobs import JobRequest

PATIENCE = 30.0  # seconds; only a failing test waits so long

ECHO = """
import json, sys
print(json.load(open(sys.argv[sys.argv.index("--spec") + 1]))["app_dir"])
print("no bytecode" if sys.dont_write_bytecode else "bytecode")
"""
WAIT = "import signal\nprint('ready', flush=True)\nsignal.pause()"


class Place:
    """A node's machine, and what was submitted elsewhere."""

    def __init__(self, home: Path) -> None:
        self.store = home / "node"
        app = home / "app"
        app.mkdir()
        (app / "mine.py").write_text("x = 1\n")
        self.packed: Packed = make_bundle("mine:workload", app, [], home / "submitter")
        self.key = own_signer(home / "submitter").public
        self.posts = Posts()
        self.made: list[NodeWorks] = []
        self.fetching = asyncio.Event()
        self.may_come = asyncio.Event()

    async def fetch(self, name: str, limit: int, arrived: Callable[[], None]) -> bytes:
        self.fetching.set()
        await self.may_come.wait()
        arrived()
        return self.packed.data

    def start(self, script: str = ECHO, fetch: Fetch | None = None) -> NodeWorks:
        config = NodeWorksConfig(
            node="me",
            server="nats://127.0.0.1:4222",
            folder=self.store / "nodes",
            app_dir=Path("/elsewhere"),
            shelf=Shelf(self.store, fetch or self.fetch),
            argv=(sys.executable, "-c", script),
            fork_argv=None,
        )
        self.made.append(NodeWorks(config))
        request = JobRequest(kind="train", workload="mine:workload", bundle=self.packed.source)
        self.made[-1].start(KEY, TrainingWork(job="j", request=request, attempt=1), self.posts)
        return self.made[-1]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    for works in made.made:
        await works.close()


async def test_the_process_finds_the_bundle_where_it_looks_for_modules(place: Place) -> None:
    trust(place.store, place.key)
    place.may_come.set()
    place.start()
    exited = await place.posts.wait_for(WorkExited)
    assert exited.code == 0
    told, bytecode = place.posts.lines()
    folder = Path(told)
    assert folder == place.store / "bundles" / place.packed.source.digest
    assert (folder / "mine.py").read_text() == "x = 1\n"
    assert bytecode == "no bytecode"
    assert BundleArriving(job="j") in place.posts.results


async def test_a_stranger_s_code_starts_no_process(place: Place) -> None:
    place.start()
    exited = await place.posts.wait_for(WorkExited)
    assert exited.code == EXIT_DECLINED
    why = policy.failure(exited.code, exited.last_lines)
    assert (why.kind, why.may_pass) == ("declined", False)
    assert why.words.startswith(f"the job's code comes from {place.key}, whom this node does not trust")
    assert place.posts.lines() == []
    assert not place.fetching.is_set()


async def test_a_bundle_that_is_gone_is_the_job_s_fault(place: Place) -> None:
    async def fetch(name: str, limit: int, arrived: Callable[[], None]) -> bytes:
        raise KeyError(name)

    trust(place.store, place.key)
    place.start(fetch=fetch)
    exited = await place.posts.wait_for(WorkExited)
    assert exited.code == EXIT_BUNDLE
    assert policy.failure(exited.code, exited.last_lines).kind == "bundle"
    assert exited.last_lines == ("the bundle is not in the object store: submit the job again with --bundle",)


async def test_a_server_that_is_away_is_no_fault_of_the_job(place: Place) -> None:
    async def fetch(name: str, limit: int, arrived: Callable[[], None]) -> bytes:
        raise Unreachable("no server there")

    trust(place.store, place.key)
    place.start(fetch=fetch)
    exited = await place.posts.wait_for(WorkExited)
    assert exited.code == EXIT_BUS
    assert policy.failure(exited.code, exited.last_lines).may_pass


async def test_what_is_still_on_its_way_is_given_up_when_the_job_is_stopped(place: Place) -> None:
    trust(place.store, place.key)
    works = place.start()
    async with asyncio.timeout(PATIENCE):
        await place.fetching.wait()
    works.stop(KEY, "the job is over")
    exited = await place.posts.wait_for(WorkExited)
    assert exited.code < 0
    assert place.posts.lines() == []
    assert list(place.store.glob("bundles/*")) == []


async def test_trust_that_is_taken_away_ends_what_runs(place: Place) -> None:
    trust(place.store, place.key, "anna")
    place.may_come.set()
    works = place.start(WAIT)
    await place.posts.until_printed("ready")
    works.review_trust()
    assert not any(isinstance(result, WorkExited) for result in place.posts.results)
    distrust(place.store, "anna")
    works.review_trust()
    exited = await place.posts.wait_for(WorkExited)
    assert exited.code == EXIT_DECLINED
    assert "does not trust" in exited.last_lines[-1]


async def test_where_nothing_can_be_confined_a_stranger_s_code_is_declined(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "landlock_level", lambda: 0)
    trust(place.store, place.key)
    place.may_come.set()
    place.start()
    exited = await place.posts.wait_for(WorkExited)
    assert exited.code == EXIT_DECLINED
    assert "--confine off" in exited.last_lines[-1]
    assert list((place.store / "nodes").glob("*.scratch")) == []

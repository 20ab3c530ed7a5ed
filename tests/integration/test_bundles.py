"""A job whose code is on its submitter's machine alone: it travels to nodes that trust them, those that come later, too."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_fleet import APPS, ProcessFleet
from rules import must_have_run_well
from story import Story

from runners.bundles.keys import own_signer
from runners.client import Client
from runners.jobs.bounds import landlock_level
from schemas.jobs import JobPhase
from schemas.nodes import NodeMended, WorkFailed
from schemas.training import Roster, RoundClosed, TrainerReady

pytestmark = pytest.mark.search  # five starts of a node; `test_namespaces.py` sends a bundle to nodes, too
FRIEND, STRANGER = "friend", "stranger"
JOB = """
kind = "train"
workload = "travelling.model:workload"
files = ["scale.txt"]
exclude = ["a", "b", "c", "frail"]
checkpoint_every = 1
target_loss = 100.0
"""
MODEL = """
import os
from pathlib import Path

import torch
from torch import nn

from cloud_points import Points

SCALE = float((Path(__file__).parents[1] / "scale.txt").read_text())


class Travelling(Points):
    def model(self) -> nn.Module:
        print("made in", Path(__file__).parents[1], flush=True)
        try:
            os.listdir(Path(os.environ["POINTS_ARE_GOOD_ENOUGH"]).parent)
        except PermissionError:
            print("sees no more than it should", flush=True)
        return super().model()

    def validate(self, model: nn.Module) -> float:  # worthless until a test says that the job may end
        return super().validate(model) * SCALE if Path(os.environ["POINTS_ARE_GOOD_ENOUGH"]).exists() else 1000.0


workload = Travelling()
"""


class Project:
    """Somebody's project with a store of its own, and two nodes elsewhere, in a directory without it; one trusts them."""

    def __init__(self, fleet: ProcessFleet) -> None:
        self.fleet = fleet
        self.home, self.empty = fleet.home / "project", fleet.home / "empty"
        self.flag = Path(fleet.env["POINTS_ARE_GOOD_ENOUGH"])
        self.flag.unlink(missing_ok=True)  # another file's tests may have left it
        (self.home / "travelling").mkdir(parents=True)
        self.empty.mkdir()
        (self.home / "travelling" / "__init__.py").touch()
        (self.home / "travelling" / "model.py").write_text(MODEL)
        (self.home / "cloud_points.py").write_text((APPS / "points.py").read_text())
        (self.home / "scale.txt").write_text("1.0")
        self.key = own_signer(self.home / ".shoal").public
        self.start(FRIEND, "--trust", self.key)
        self.start(STRANGER)

    def store(self, node: str) -> Path:
        return self.fleet.home / node / ".shoal"

    def start(self, node: str, *arguments: str) -> None:
        self.store(node).mkdir(parents=True, exist_ok=True)
        settings = self.store(node).with_name("shoal.toml")
        settings.write_text('[node.limits]\nenvironment = ["POINTS_ARE_GOOD_ENOUGH"]\n')
        own = ("--app-dir", str(self.empty), "--store", str(self.store(node)), "--server", self.fleet.url)
        assert self.fleet.node(node, *own, *arguments).line() == f"node {node} is up"

    async def submit(self, job: str, more: str = "") -> None:
        (self.home / f"{job}.toml").write_text(JOB + more)
        arguments = ("--bundle", "--id", job, "--rounds", "100000", "--server", self.fleet.url)
        said = await self.fleet.cli("submit", f"{job}.toml", *arguments, cwd=self.home)
        assert said.code == 0, said.err
        assert "4 files" in said.out

    @property
    def mend(self) -> str:
        """What the stranger's owner is told to do."""
        return f"`shoal trust {self.key} --store {self.store(STRANGER)}`"

    @property
    def digest(self) -> str:
        """Of the bundle that the friend has."""
        (folder,) = (self.store(FRIEND) / "bundles").iterdir()
        return folder.name


@pytest.fixture(scope="module")
def project(fleet: ProcessFleet) -> Iterator[Project]:
    made = Project(fleet)
    yield made
    made.flag.unlink(missing_ok=True)
    for node in (FRIEND, STRANGER):
        fleet.nodes[node].close()


async def contributes(news: Story, job: str, node: str, since: int = 0) -> RoundClosed:
    return await news.heard(
        RoundClosed, lambda m: m.job == job and any(part.node == node for part in m.contributions), since=since
    )


# The life of one job, in this order, and of one that goes on from it.


async def test_a_node_that_does_not_trust_the_submitter_says_so_and_the_job_goes_on_elsewhere(
    project: Project, story: Story
) -> None:
    await project.submit("travels")
    refused = await story.heard(WorkFailed, lambda m: m.job == "travels")
    assert (refused.node, refused.kind, refused.retry) == (STRANGER, "declined", False)
    assert project.mend in refused.reason
    await contributes(story, "travels", FRIEND)
    for command in (("logs", "travels"), ("why", STRANGER, "--json")):
        said = await project.fleet.cli(*command)
        assert project.mend in said.out, (command, said)
    assert list(project.empty.iterdir()) == []


async def test_once_its_owner_trusts_them_it_is_in_the_job_at_once(project: Project, story: Story) -> None:
    since = story.mark
    said = await project.fleet.cli("trust", project.key, "--name", "author", "--store", str(project.store(STRANGER)))
    assert said.out == f"trusted: {STRANGER} knows at once\n"
    await story.heard(NodeMended, lambda m: m.node == STRANGER, since=since)
    await story.heard(Roster, lambda m: m.job == "travels" and STRANGER in m.nodes, since=since)
    await contributes(story, "travels", STRANGER, since)
    (code,) = {m.code for m in story.of(TrainerReady, lambda m: m.job == "travels")}
    assert f"source={project.digest} " in code
    said = await project.fleet.cli("logs", "travels", "--node", STRANGER)
    assert f"{STRANGER} | made in {project.store(STRANGER)}/bundles/{project.digest}" in said.out
    assert not landlock_level() or f"{STRANGER} | sees no more than it should" in said.out


async def test_a_node_that_was_killed_gets_the_code_from_its_own_disk(
    project: Project, client: Client, story: Story
) -> None:
    await client.bus.put_object(f"bundles/{project.digest}", b"")  # there it is no more
    since = story.mark
    os.kill(project.fleet.nodes[FRIEND].pid, signal.SIGKILL)
    project.fleet.nodes[FRIEND].ended()
    project.start(FRIEND, "--trust", project.key)
    await story.heard(TrainerReady, lambda m: (m.job, m.node) == ("travels", FRIEND), since=since)
    await contributes(story, "travels", FRIEND, story.mark)
    project.flag.touch()
    assert (await story.ended("travels")).state is JobPhase.COMPLETED
    await must_have_run_well(client, "travels")


async def test_another_job_resumes_on_another_machine_and_when_trust_ends_goes_on_elsewhere(
    project: Project, client: Client, story: Story
) -> None:
    project.flag.unlink(missing_ok=True)
    await project.submit("resumed", f'resume = "travels"\ninclude = ["{STRANGER}"]\nmax_nodes = 1\n')
    closed = await contributes(story, "resumed", STRANGER)
    assert closed.round == 1
    assert closed.loss < 1.0, "it doesn't begin anew"
    since = story.mark
    said = await project.fleet.cli("trust", "author", "--remove", "--store", str(project.store(STRANGER)))
    assert said.out == f"no longer trusted: {STRANGER} knows at once\n"
    ended = await story.heard(WorkFailed, lambda m: m.job == "resumed", since=since)
    assert (ended.node, ended.kind) == (STRANGER, "declined")
    assert project.mend in ended.reason
    await contributes(story, "resumed", FRIEND, since)
    await client.cancel("resumed")

"""One long job on three nodes; each of its processes is killed, each agent muted, and it goes on every time."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from conftest import END_FLAG, NODES, STEP_TIME
from process_fleet import ProcessFleet, left_over
from rules import must_have_run_well
from story import Story, following

from runners.client import Client, connect
from runners.up import AGENTS
from schemas.anchors import CaughtUp
from schemas.decisions import AgentStarted, NodeJoined, NodeLost
from schemas.drills import DrillMark
from schemas.jobs import JobPhase, ReportReady
from schemas.nodes import NodeHeartbeat, WorkFailed
from schemas.training import RoundClosed, RoundOpened

REQUEST = {
    "kind": "train", "workload": "points_until_told:workload", "rounds": 1_000_000, "min_nodes": 3, "target_loss": 100.0,
}  # fmt: skip
FEW, FIVE = 2, 5


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def job(fleet: ProcessFleet) -> str:
    """The job, under way; it ends once the test says so."""
    (fleet.home / END_FLAG).unlink(missing_ok=True)
    async with await connect(fleet.url) as client, following(client) as story:
        job = (await client.submit(REQUEST)).job
        await story.rounds(job, FEW, 0)
    return job


@pytest.fixture(scope="module", autouse=True)
def stopped(fleet: ProcessFleet) -> Iterator[list[int]]:
    """Processes that are muted: whatever fails, they go on afterwards."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        go_on(pid)


def go_on(pid: int) -> None:
    """Unless it is another process by now: on a slow machine the healer has a silent agent started again."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


async def contributes(news: Story, job: str, node: str, since: int) -> RoundClosed:
    """A round counts what a node did for it."""
    return await news.heard(
        RoundClosed, lambda m: m.job == job and any(part.node == node for part in m.contributions), since=since
    )


async def reducer_of(news: Story, job: str) -> RoundOpened:
    """Who opens a round just now."""
    return await news.heard(RoundOpened, lambda m: m.job == job, since=news.mark)


async def test_a_job_process(fleet: ProcessFleet, job: str, news: Story) -> None:
    reducer = (await reducer_of(news, job)).node
    victim = next(node for node in NODES if node != reducer)
    since = news.mark
    os.kill(fleet.job(victim), signal.SIGKILL)
    failed = await news.heard(WorkFailed, lambda m: m.node == victim, since=since)
    assert (failed.kind, failed.retry, failed.code) == ("killed", True, -signal.SIGKILL)
    caught_up = await news.heard(CaughtUp, lambda m: m.node == victim, since=since)
    assert caught_up.version > 0
    await contributes(news, job, victim, news.mark)


async def test_the_process_that_reduces(fleet: ProcessFleet, job: str, news: Story) -> None:
    opened = await reducer_of(news, job)
    since = news.mark
    os.kill(fleet.job(opened.node), signal.SIGKILL)
    heir = await news.heard(RoundOpened, lambda m: m.job == job and m.node != opened.node, since=since)
    assert heir.round >= opened.round
    assert heir.term > opened.term
    await news.rounds(job, FEW, since)
    await contributes(news, job, opened.node, news.mark)


async def test_a_node(fleet: ProcessFleet, job: str, news: Story) -> None:
    reducer = (await reducer_of(news, job)).node
    victim = next(node for node in reversed(NODES) if node != reducer)
    work, since = fleet.job(victim), news.mark
    fleet.nodes[victim].send(signal.SIGKILL)
    fleet.nodes[victim].ended()
    assert left_over([work]) == [], "its job's process dies with it"
    await news.heard(NodeLost, lambda m: m.node == victim, since=since)
    await news.rounds(job, FEW, news.mark)
    fleet.node(victim, "--step-time", STEP_TIME)
    assert (await news.heard(NodeJoined, lambda m: m.node == victim, since=since)).returned
    await news.heard(CaughtUp, lambda m: m.node == victim, since=since)
    await contributes(news, job, victim, news.mark)


@pytest.mark.parametrize("agent", AGENTS)
async def test_an_agent(fleet: ProcessFleet, job: str, news: Story, agent: str) -> None:
    pid, since = fleet.agent(agent), news.mark
    os.kill(pid, signal.SIGKILL)
    started = await news.heard(AgentStarted, lambda m: m.agent == agent, since=since)
    assert started.resumed
    assert fleet.agent(agent) != pid
    await news.rounds(job, FEW, news.mark)


async def test_the_server(fleet: ProcessFleet, job: str, news: Story) -> None:
    pid, since = fleet.server(), news.mark
    os.kill(pid, signal.SIGKILL)
    assert left_over([pid]) == []
    closed = await news.rounds(job, FIVE, since)
    for node in NODES:
        await news.heard(NodeHeartbeat, lambda m, node=node: m.node == node, since=news.mark)
        await contributes(news, job, node, news.mark)
    assert closed.round > 0
    assert fleet.server() != pid


@pytest.mark.parametrize("agent", AGENTS)
async def test_five_rounds_without_an_agent(
    fleet: ProcessFleet, job: str, news: Story, stopped: list[int], agent: str
) -> None:
    pid = fleet.agent(agent)
    os.kill(pid, signal.SIGSTOP)
    stopped.append(pid)
    await news.rounds(job, FIVE, news.mark)
    go_on(pid)
    stopped.remove(pid)


async def test_five_rounds_without_a_nodes_agent(fleet: ProcessFleet, job: str, news: Story, stopped: list[int]) -> None:
    node = fleet.nodes["b"]
    node.send(signal.SIGSTOP)
    stopped.append(node.pid)
    await news.rounds(job, FIVE, news.mark)
    node.send(signal.SIGCONT)
    stopped.remove(node.pid)
    await news.heard(NodeHeartbeat, lambda m: m.node == "b", since=news.mark)


async def test_a_drill(fleet: ProcessFleet, job: str, news: Story) -> None:
    pid = fleet.agent("appraiser")
    ran = ("--yes", "--json", "--only", "kill-appraiser", "--only", "kill-node")
    said = await fleet.cli("drill", *ran, "--store", str(fleet.store))
    found = said.json()
    assert found["job"] == job, "it goes by the job that runs"
    not_killed, killed = found["results"]
    assert (killed["name"], killed["does"]) == ("kill-appraiser", "appraiser gets SIGKILL")
    assert killed["accepted"] > 0
    assert (killed["lost"], found["wrong"]) == ([], [])
    assert killed["back"] is not None
    assert said.code == int(bool(killed["missed"])), "how long it took depends on the machine"
    assert killed["curve"][0][0] < 0 < killed["curve"][-1][0]
    assert "nobody else would start one again" in not_killed["skipped"], "these nodes aren't `shoal up`'s"
    assert fleet.agent("appraiser") != pid
    told = await news.heard(DrillMark, lambda m: m.part == "appraiser")
    assert told.reason == "gets SIGKILL"
    assert not (fleet.store / "drill.json").exists()


async def test_after_all_that_it_completes(fleet: ProcessFleet, client: Client, job: str, news: Story) -> None:
    (fleet.home / END_FLAG).touch()
    state = await news.ended(job)
    assert state.state is JobPhase.COMPLETED, state.reason
    rounds = await must_have_run_well(client, job)
    assert rounds[-1].loss < rounds[0].loss
    told = await report_of(client, news, job)
    faults = {fault["what"]: fault for fault in told["faults"]}
    wanted = {"job process: killed", "node lost", "node came back", "server out of reach"}
    wanted |= {f"agent {agent} restarted" for agent in AGENTS}
    assert wanted <= set(faults)
    assert all(faults[what]["seconds_to_recover"] is not None for what in wanted), faults
    assert told["rounds"] == len(rounds)


async def report_of(client: Client, news: Story, job: str) -> Any:
    """What the recorder made of it."""
    ready = await news.heard(ReportReady, lambda m: m.job == job)
    return msgspec.json.decode(await client.bus.get_object(ready.name))

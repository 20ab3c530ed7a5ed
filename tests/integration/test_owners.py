"""A node of a running job is paused by hand: the job goes on elsewhere; resumed, the node is back in it."""

from conftest import NODES
from process_fleet import ProcessFleet
from story import Story

from runners.client import Client
from schemas.anchors import CaughtUp
from schemas.jobs import JobState
from schemas.nodes import PauseNode, WorkEnded, WorkFailed
from schemas.training import Roster, RoundClosed

LONG = {"kind": "train", "workload": "points:workload", "rounds": 100_000, "min_nodes": 3, "checkpoint_every": 0}
FEW = 3


async def test_paused_nodes_leave_a_job_at_once_and_come_back(fleet: ProcessFleet, client: Client, news: Story) -> None:
    job = (await client.submit(LONG)).job
    try:
        await everybody_contributes(news, job, 0)
        since = news.mark
        assert (await fleet.cli("pause", "c", "--reason", "a game")).out == "c yields: paused by hand: a game\n"
        roster = await news.heard(Roster, lambda m: m.job == job and "c" not in m.nodes, since=since)
        assert roster.reason.startswith("c: yields: paused by hand: a game")
        await news.heard(WorkEnded, lambda m: (m.job, m.node) == (job, "c"), since=since)
        assert fleet.working("c") == [], "nothing of the job is left on the machine"
        await news.rounds(job, FEW, news.mark)

        # Now the others, too: the last one to yield keeps what has been learnt.
        for node in ("a", "b"):
            await client.publish(PauseNode(node=node, pause=True))
            await news.heard(Roster, lambda m, node=node: m.job == job and node not in m.nodes, since=since)
        state = await news.heard(JobState, lambda m: m.job == job and m.reason.startswith("waiting"), since=since)
        assert state.reason.startswith("waiting for nodes: nobody is left; waiting; b: yields: paused by hand")
        assert len(fleet.working("b")) == 1
        stood_at = state.round

        since = news.mark
        for node in reversed(NODES):
            await client.publish(PauseNode(node=node, pause=False))
        await everybody_contributes(news, job, since)
        rounds = [closed.round for closed in news.of(RoundClosed, lambda m: m.job == job, since)]
        assert min(rounds) <= stood_at + 1, "it goes on where it stood"
        assert not any("lost" in word.reason for word in news.of(CaughtUp, lambda m: m.job == job))
        assert news.of(WorkFailed, lambda m: m.job == job) == []
    finally:
        for node in NODES:
            await client.publish(PauseNode(node=node, pause=False))
        await client.cancel(job)


async def everybody_contributes(news: Story, job: str, since: int) -> None:
    for node in NODES:
        await news.heard(
            RoundClosed,
            lambda m, node=node: m.job == job and any(part.node == node for part in m.contributions),
            since=since,
        )

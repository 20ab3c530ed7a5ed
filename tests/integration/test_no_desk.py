"""Without a desk clients are told at once, and `shoal submit` keeps the job for the desk to come."""

import msgspec
import nats
import nats.errors
import pytest
from process_fleet import END_WITHIN, PATIENCE, ProcessFleet
from rules import must_have_run_well
from story import following

from bus.server import EmbeddedServer
from runners.client import connect
from schemas.jobs import JobPhase, JobQueued, JobRefused

JOB = """
kind = "train"
workload = "points:workload"
rounds = 3
id = "patient"
"""
SUBMIT = "shoal.jobs.submit"
NEEDED = ("node_selector", "batch_controller", "job_desk")  # the others only make it better


async def test_a_job_waits_for_the_desk_and_then_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("no-desk")
    (home / "job.toml").write_text(JOB)
    async with EmbeddedServer(home / ".shoal") as server:
        with ProcessFleet(home) as fleet:
            fleet.url = server.url
            anybody = await nats.connect(server.url)
            with pytest.raises(nats.errors.NoRespondersError):
                await anybody.request(SUBMIT, msgspec.json.encode({"kind": "train", "workload": "a:b"}), timeout=PATIENCE)
            await anybody.close()

            said = await fleet.cli("submit", "job.toml", "--json")
            assert (said.code, said.json()) == (0, {"job": "patient", "queued": True})
            twice = await fleet.cli("submit", "job.toml")
            assert twice.code == 0
            assert "starts once `shoal up` runs" in twice.err

            agents = [fleet.start("agent", name) for name in NEEDED]
            fleet.node("a")
            async with await connect(server.url) as client, following(client) as story:
                assert (await story.ended("patient")).state is JobPhase.COMPLETED
                assert len(await must_have_run_well(client, "patient")) == 3
                assert len(story.of(JobQueued)) == 2
                assert not story.of(JobRefused)
                jobs = await client.jobs()
                assert [(job.job, job.round) for job in jobs] == [("patient", 3)]
            for agent in agents:
                agent.process.terminate()
            assert [agent.ended(END_WITHIN) for agent in agents] == [0, 0, 0]
            for agent in agents:
                agent.close()


async def test_no_agent_of_that_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ProcessFleet(tmp_path_factory.mktemp("no-agent")) as fleet:
        said = await fleet.cli("agent", "job_dusk")
    assert said.code == 2
    assert "job_desk" in said.err

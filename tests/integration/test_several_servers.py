"""`shoal up --cluster 3`: a job goes on while the servers that lead its records are killed."""

import json
import os
import signal
from pathlib import Path

import nats
import psutil
import pytest
from process_fleet import PATIENCE, ProcessFleet
from rules import must_have_run_well
from story import following

from runners.client import connect
from schemas.jobs import JobPhase

pytestmark = pytest.mark.search  # the processes of a whole fleet of its own: as much as all fleets of the suite together
ROUNDS = 40  # more than pass until both have been killed


async def leader_of(url: str, stream: str) -> str:
    """The name of the server that leads a stream."""
    client = await nats.connect(url.split(","))
    info = await client.jetstream(timeout=PATIENCE).stream_info(stream)
    await client.close()
    assert info.cluster is not None
    assert info.cluster.leader is not None
    return info.cluster.leader


def server_named(upper: int, store: Path, name: str) -> int:
    """The process id of a server of the cluster."""
    folder = str(store / "servers" / name.rpartition("-")[2])
    (found,) = [one.pid for one in psutil.Process(upper).children() if any(folder in part for part in one.cmdline())]
    return found


async def test_a_job_goes_on_while_the_servers_that_led_are_killed(tmp_path: Path) -> None:
    with ProcessFleet(tmp_path) as fleet:
        upper = fleet.up("--cluster", "3", "--replicas", "2")
        assert json.loads((fleet.store / "servers" / "cluster.json").read_text())["servers"] == 3
        for name in ("a", "b"):
            fleet.node(name, "--step-time", "20")
        async with await connect(fleet.url, name="test") as client, following(client) as story:
            request = {"kind": "train", "workload": "points:workload", "rounds": ROUNDS, "min_nodes": 2}
            job = (await client.submit(request)).job
            await story.rounds(job, 2, 0)
            led = await leader_of(fleet.url, "SHOAL_RECORD")
            since = story.mark
            os.kill(server_named(upper.pid, fleet.store, led), signal.SIGKILL)
            await story.rounds(job, 10, since)
            led = await leader_of(fleet.url, "SHOAL_LATEST")  # one after another, each may be lost
            os.kill(server_named(upper.pid, fleet.store, led), signal.SIGKILL)
            state = await story.ended(job)
            assert state.state is JobPhase.COMPLETED, state.reason
            assert len(await must_have_run_well(client, job)) == ROUNDS

"""A whole job in a fleet of members, over TLS: nodes come in by invitations, and their processes by keys of their own."""

from pathlib import Path

import pytest
from process_fleet import ProcessFleet
from rules import must_have_run_well
from story import following

from runners.client import connect
from runners.jobs.names import model_name
from schemas.bus import BusDisturbed
from schemas.jobs import JobPhase

pytestmark = pytest.mark.search  # the processes of a whole fleet of its own: as much as all fleets of the suite together
ROOT = Path(__file__).parents[2]
ROUNDS = 3


@pytest.mark.parametrize("how", ["--secure", "--tls"])
async def test_digits_among_members(tmp_path: Path, how: str) -> None:
    with ProcessFleet(tmp_path) as fleet:
        fleet.up(how)
        for name in ("a", "b"):
            line = (await fleet.cli("invite", "--name", name)).out.strip()
            assert line.startswith("shoal-join:")
            fleet.node(name, "--app-dir", str(ROOT), "--join", line, "--store", str(tmp_path / name))
        async with await connect(store=fleet.store, name="test") as client, following(client) as story:
            request = {"kind": "train", "workload": "examples.digits:workload", "rounds": ROUNDS, "min_nodes": 2}
            job = (await client.submit(request)).job
            state = await story.ended(job)
            assert state.state is JobPhase.COMPLETED, state.reason
            assert len(await must_have_run_well(client, job)) == ROUNDS
            assert len(await client.bus.get_object(model_name(job))) > 1000
            assert story.of(BusDisturbed, lambda m: m.kind == "permission") == [], "somebody lacks a permission"

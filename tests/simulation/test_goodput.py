"""The strategy goodput and learned deadlines in whole fleets: with faults, and with a model that learns."""

import msgspec
import pytest
from fleets import QUIET, listen, small_world

from bus.simulated_faults import DEFAULT
from runners.simulation import World
from runners.simulation.world import REQUEST
from schemas.jobs import JobPhase
from schemas.training import Assignment, RoundClosed

NAMES = [f"n{n:03d}" for n in range(4)]


@pytest.mark.parametrize("seed", [3])
def test_a_fleet_with_faults_keeps_what_every_fleet_must(seed: int) -> None:
    """Safety after every event, liveness in the end, bounds of shares: as with any strategy."""
    request = msgspec.structs.replace(QUIET, batch="goodput", local_steps=200)
    outcome = World(seed, 8, 0.25, DEFAULT, beat=5.0, request=request).run()
    assert outcome.jobs.get("completed", 0) >= 1


def test_deadlines_come_to_what_rounds_take() -> None:
    world = small_world(NAMES, [0.002] * 4, request=msgspec.structs.replace(REQUEST, local_steps=20))
    closed, assignments = listen(world, RoundClosed), listen(world, Assignment)
    world.begin()
    assert world.until(lambda: len(closed) >= 12, 900.0)
    takes = sorted(each.seconds for each in closed[6:])[-1]
    assert assignments[-1].deadline_seconds < 2 * takes + 1.0
    assert all(each.on_time for each in closed[6:]), "and nobody is cut off by it"
    assert world.until(lambda: world.client.ended(JobPhase.COMPLETED) >= 1, 900.0)


def test_a_simulated_fleet_learns_for_real_and_on_slow_links_in_longer_rounds() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.small_model import Digits
    from benchmarks.strategies import ADAM, run

    problem = Digits()
    useful, usual = (run("pair", strategy, 0, problem, ADAM) for strategy in ("goodput", "latency"))
    assert useful.seconds < usual.seconds
    assert useful.samples / useful.rounds > usual.samples / usual.rounds

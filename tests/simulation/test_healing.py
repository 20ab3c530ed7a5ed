"""The healer among the other agents: what a node has given up for good is tried again, and that is judged."""

import msgspec
import pytest
from fleets import QUIET, listen, small_world

from bus.simulated_faults import DEFAULT, HEAVY
from runners.simulation.cores import AGENTS
from runners.simulation.world import REQUEST, World
from schemas.healing import Healed, HealingOrdered
from schemas.nodes import WorkFailed
from schemas.training import RoundClosed

NAMES = [f"n{n:03d}" for n in range(4)]
SPEEDS = [0.004, 0.005, 0.006, 0.008]
VICTIM = NAMES[-1]
HEALER = ("agents.healer", "Healer", "HealerSettings")


def given_up() -> tuple[World, list[RoundClosed]]:
    """A world in which a node's process has crashed until its node gave the job up."""
    world = small_world(NAMES, SPEEDS, request=msgspec.structs.replace(REQUEST, rounds=1000, min_nodes=2))
    closed, failed = listen(world, RoundClosed), listen(world, WorkFailed)
    world.begin()
    assert world.until(lambda: len(closed) >= 2, 600.0)
    machine = world.fleet.machines[VICTIM]
    while not failed or failed[-1].retry:
        count = len(failed)
        assert world.until(lambda: bool(machine.jobs), 60.0)
        next(iter(machine.jobs.values())).kill(1)
        assert world.until(lambda count=count: len(failed) > count, 60.0)  # type: ignore[misc]
    return world, closed


def counts(closed: list[RoundClosed], since: int) -> bool:
    """Whether rounds count what the node does."""
    return any(part.node == VICTIM for each in closed[since:] for part in each.contributions)


def test_a_node_that_has_given_up_a_job_takes_part_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AGENTS, "healer", HEALER)
    world, closed = given_up()
    ordered, healed, rounds = listen(world, HealingOrdered), listen(world, Healed), len(closed)
    assert world.until(lambda: bool(healed), 600.0), "nothing was healed"
    assert counts(closed, rounds + 1)
    assert [(order.node, order.remedy) for order in ordered] == [(VICTIM, "retry")]
    assert (healed[0].node, healed[0].fault, healed[0].orders) == (VICTIM, "given_up", 1)
    assert healed[0].seconds > healed[0].remedy_seconds


def test_without_a_healer_it_stays_out() -> None:
    world, closed = given_up()
    rounds = len(closed)
    world.advance(120.0)
    assert len(closed) > rounds + 3
    assert not counts(closed, rounds + 2)


@pytest.mark.search
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(600, 610))
def test_many_seeds_with_a_healer(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Impatient, so that it orders much."""
    monkeypatch.setitem(AGENTS, "healer", HEALER)
    hasty = {"healer": {"first_aid_seconds": 5.0, "node_burst": 10, "fleet_burst": 50, "fleet_every_seconds": 1.0}}
    World(seed, 20, 1.0, HEAVY if seed % 2 else DEFAULT, check=1, beat=10.0, request=QUIET, settings=hasty).run()

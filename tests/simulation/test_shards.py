"""Fleets in which several nodes reduce each round: safety whatever goes wrong, and rounds go on."""

import msgspec
import pytest
from fleets import QUIET, listen, small_world

from bus.simulated_faults import DEFAULT
from runners.simulation import World
from runners.simulation.world import REQUEST
from schemas.training import AverageOffered, RoundClosed

NAMES = [f"n{n:03d}" for n in range(4)]


def test_nodes_with_like_links_reduce_together() -> None:
    request = msgspec.structs.replace(REQUEST, reducers=4, rounds=10, min_nodes=4)
    world = small_world(NAMES, [0.003] * 4, request=request)
    closed, offered = listen(world, RoundClosed), listen(world, AverageOffered)
    world.begin()
    assert world.until(lambda: len(closed) >= 10, 900.0)
    makers = [{each.node for each in offered if each.round == number} for number in range(1, 11)]
    assert makers[-1] == set(NAMES)
    assert all(len(each.contributions) == 4 for each in closed[3:])


def faulty(seed: int, hours: float, **options: int) -> None:
    request = msgspec.structs.replace(QUIET, reducers=6, max_nodes=8)
    world = World(seed, [f"n{n:03d}" for n in range(24)], hours, DEFAULT, request=request, beat=5.0, **options)
    closed = listen(world, RoundClosed)
    outcome = world.run()
    assert set(outcome.jobs) == {"completed"}
    several = sum(len(each.average.shards) > 1 for each in closed)
    assert several > len(closed) // 2, f"{several} of {len(closed)} rounds were reduced by several"


def test_a_fleet_with_faults_closes_whole_rounds_alone() -> None:
    faulty(5, 0.08, check=10)


@pytest.mark.search
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_many_fleets_with_every_input_checked(seed: int) -> None:
    faulty(seed, 1.0, check=1)

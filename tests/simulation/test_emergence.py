"""No agent is a coordinator: without any one of them the rounds of a running job go on."""

import msgspec
import pytest
from fleets import listen, small_world

from runners.simulation.cores import AGENTS
from runners.simulation.world import REQUEST
from schemas.anchors import CaughtUp
from schemas.jobs import JobPhase
from schemas.nodes import WorkFailed
from schemas.training import Assignment, RoundClosed

NAMES = [f"n{n:03d}" for n in range(5)]
SPEEDS = [0.002, 0.003, 0.004, 0.006, 0.008]


@pytest.mark.parametrize("gone", sorted(AGENTS))
def test_rounds_go_on_without(gone: str) -> None:
    world = small_world(NAMES, SPEEDS)
    closed = listen(world, RoundClosed)
    world.begin()
    assert world.until(lambda: len(closed) >= 2, 600.0)
    world.fleet.agents[gone].kill("nothing")
    assert world.until(lambda: len(closed) >= 7, 600.0), f"without {gone} only {len(closed)} rounds closed"
    assert closed[-1].contributions


def test_without_the_batch_controller_nobody_changes_shares() -> None:
    world = small_world(NAMES, SPEEDS)
    closed, assignments = listen(world, RoundClosed), listen(world, Assignment)
    world.begin()
    assert world.until(lambda: len(closed) >= 2, 600.0)
    world.fleet.agents["batch_controller"].kill("nothing")
    world.advance(1.0)
    before = len(assignments)
    assert world.until(lambda: len(closed) >= 7, 600.0)
    assert len(assignments) == before


def test_a_killed_reducer_is_replaced_within_a_round() -> None:
    world = small_world(NAMES, SPEEDS)
    closed, failed = listen(world, RoundClosed), listen(world, WorkFailed)
    world.begin()
    assert world.until(lambda: len(closed) >= 3, 600.0)
    reducer, rounds = closed[-1].next_reducer, len(closed)
    world.fleet.kill_machine(reducer)
    assert world.until(lambda: len(closed) >= rounds + 3, 600.0), "no round closes without its reducer"
    assert closed[-1].reducer != reducer
    assert not failed, "a machine without power says nothing"


@pytest.mark.parametrize("checkpoint_every", [0, 3])
def test_a_job_goes_on_when_every_machine_was_off(checkpoint_every: int) -> None:
    request = msgspec.structs.replace(REQUEST, rounds=8, checkpoint_every=checkpoint_every)
    world = small_world(NAMES, SPEEDS, request=request)
    closed, caught_up = listen(world, RoundClosed), listen(world, CaughtUp)
    world.begin()
    assert world.until(lambda: len(closed) >= 5, 600.0)
    world.client.stop()
    for name in NAMES:
        world.fleet.kill_machine(name)
        world.fleet.nodes[name].begin()
    assert world.until(lambda: not world.client.open, 900.0), "the job stands still with nobody who has its anchor"
    assert world.client.ended(JobPhase.COMPLETED) == 1
    said = f"goes on from version {3 if checkpoint_every else 0}"
    assert sum(said in each.reason for each in caught_up) == 1

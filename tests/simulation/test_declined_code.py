"""Machines that don't take a job's code: the job goes on without them, and with them once that is mended."""

import msgspec
from fleets import listen, small_world

from agents.node import TrustChanged
from runners.simulation.world import REQUEST, World
from schemas.bundles import SourceBundle
from schemas.decisions import NodeQuarantined
from schemas.nodes import WorkFailed
from schemas.training import RoundClosed

NAMES = [f"n{n:03d}" for n in range(5)]
SPEEDS = [0.002, 0.003, 0.004, 0.006, 0.008]
BUNDLE = SourceBundle(digest="0" * 64, size=1, submitter="ed25519:" + "A" * 43, signature="A" * 86)
WARY = ("n000", "n003")  # the fastest, which would reduce, is one of them


def wary_world() -> World:
    world = small_world(NAMES, SPEEDS, request=msgspec.structs.replace(REQUEST, bundle=BUNDLE, rounds=1000, min_nodes=2))
    for name in WARY:
        world.fleet.machines[name].trusting = False
    return world


def nodes_of(closed: RoundClosed) -> set[str]:
    return {part.node for part in closed.contributions}


def test_the_job_goes_on_without_them_and_they_are_not_blamed() -> None:
    world = wary_world()
    closed, failed, blamed = listen(world, RoundClosed), listen(world, WorkFailed), listen(world, NodeQuarantined)
    world.begin()
    assert world.until(lambda: len(closed) >= 5, 600.0)
    assert set.union(*map(nodes_of, closed)) == set(NAMES) - set(WARY)
    assert {(word.node, word.kind, word.retry) for word in failed} == {(name, "declined", False) for name in WARY}
    assert len(failed) == len(WARY), "each says so once"
    assert blamed == []


def test_mended_while_it_runs_or_by_a_new_start_they_take_part() -> None:
    world = wary_world()
    closed = listen(world, RoundClosed)
    world.begin()
    assert world.until(lambda: len(closed) >= 2, 600.0)
    for name in WARY:
        world.fleet.machines[name].trusting = True
    world.fleet.nodes[WARY[0]].take(TrustChanged())
    world.fleet.kill_machine(WARY[1])
    world.fleet.nodes[WARY[1]].begin()
    assert world.until(lambda: set(NAMES) <= nodes_of(closed[-1]), 900.0), f"only {nodes_of(closed[-1])} contribute"

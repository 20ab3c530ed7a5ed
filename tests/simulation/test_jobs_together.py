"""Several jobs on one fleet, and nodes whose owners need them: everybody gets on, and nothing flaps."""

from typing import Any

import msgspec
import pytest
from fleets import QUIET, listen, small_world

from bus.simulated_faults import DEFAULT
from runners.simulation import World
from runners.simulation.world import REQUEST
from schemas.nodes import NodeYielding
from schemas.training import Assignment, Roster, RoundClosed

LONG = msgspec.structs.replace(REQUEST, rounds=1000, max_nodes=None, local_steps=400, validate_every=0, checkpoint_every=0)


def newest(heard: list[Any], kind: type, job: str) -> Any:
    return [event for event in heard if isinstance(event, kind) and event.job == job][-1]


def test_jobs_beside_each_other_get_through_whatever_goes_wrong() -> None:
    request = msgspec.structs.replace(QUIET, max_nodes=None, rounds=8)
    outcome = World(4, 6, 0.25, DEFAULT, check=10, beat=20.0, request=request, jobs=3).run()
    assert set(outcome.jobs) == {"completed"}
    assert outcome.jobs["completed"] >= 6
    assert {"machine crashes", "agent crashes", "partitions"} <= set(outcome.faults)


@pytest.mark.search
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(400, 410))
def test_many_seeds_of_jobs_beside_each_other(seed: int) -> None:
    request = msgspec.structs.replace(QUIET, max_nodes=None, rounds=8, min_nodes=1 + seed % 3)
    World(seed, 4 + seed % 9, 1.0, DEFAULT, check=1, beat=20.0, request=request, jobs=2 + seed % 3).run()


def test_two_jobs_divide_a_quiet_fleet_once_by_what_they_measure() -> None:
    names = [f"n{place:03d}" for place in range(6)]
    world = small_world(names, [0.004, 0.02, 0.004, 0.02, 0.02, 0.02], request=LONG, jobs=2)
    heard = listen(world, Roster, RoundClosed)
    world.begin()
    world.advance(300.0)
    settled = len([event for event in heard if isinstance(event, Roster)])
    assert settled <= 10, "some for each as nodes come and are measured"
    rosters = [set(newest(heard, Roster, job).nodes) for job in ("job1", "job2")]
    assert rosters[0] | rosters[1] == set(names)
    assert not rosters[0] & rosters[1], "each node has one job"
    assert all(len(roster & {"n000", "n002"}) == 1 for roster in rosters), "and each job a fast one"
    assert "fair shares: job1 has 3 of 6 nodes" in newest(heard, Roster, "job1").reason
    world.advance(300.0)
    assert len([event for event in heard if isinstance(event, Roster)]) == settled, "nothing changes hands any more"
    assert min(newest(heard, RoundClosed, job).round for job in ("job1", "job2")) > 5


def test_a_slowed_node_stays_has_less_to_do_and_is_in_time() -> None:
    names = ["n000", "n001", "n002"]
    owner = {"node": {"yield_to_owner": True, "yield_share": 0.25}}
    world = small_world(names, [0.01] * 3, request=LONG, settings=owner)
    heard = listen(world, Roster, RoundClosed, Assignment, NodeYielding)
    world.begin()
    world.advance(300.0)
    before = newest(heard, Assignment, "job1").shares["n001"].local_steps
    world.fleet.machines["n001"].owner_percent = 90.0
    world.advance(15.0)
    (word,) = [event for event in heard if isinstance(event, NodeYielding)]
    assert (word.node, word.share) == ("n001", 0.25)
    assert newest(heard, Assignment, "job1").shares["n001"].local_steps <= 0.35 * before
    world.advance(60.0)  # the round that was under way
    from_here = len(heard)
    world.advance(300.0)
    closed = [event for event in heard[from_here:] if isinstance(event, RoundClosed)]
    assert closed
    assert all(not event.missing for event in closed), "nobody waits for it in vain"
    assert [sorted(event.nodes) for event in heard if isinstance(event, Roster)] == [names], "it is in all the time"
    world.fleet.machines["n001"].owner_percent = 0.0
    world.advance(120.0)
    assert newest(heard, Assignment, "job1").shares["n001"].local_steps >= 0.9 * before

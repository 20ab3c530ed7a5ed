"""Schedules of faults: all kinds are there, for machines, agents and the processes of jobs, and each does what it says."""

from collections import Counter

import msgspec
from fleets import QUIET

from bus.simulated_faults import ALL, NONE
from runners.simulation import World
from runners.simulation.clocks import EPOCH
from runners.simulation.schedule import FaultEvent, drawn

NAMES = [f"n{n:03d}" for n in range(30)]
AGENTS = ("job_desk", "node_selector")


def test_every_kind_of_fault_is_drawn_for_whom_it_can_strike() -> None:
    schedule = drawn(ALL, 1, AGENTS, NAMES, 36000.0)
    assert [event.at for event in schedule] == sorted(event.at for event in schedule)
    everybody = {"crash", "pause", "cut", "skew"}
    assert {event.kind for event in schedule if event.who in AGENTS} == everybody
    assert {event.kind for event in schedule if event.who in NAMES} == everybody | {"kill", "stall", "slow"}
    assert {event.keep for event in schedule if event.who in AGENTS} == {"all", "stale", "nothing"}
    assert {event.keep for event in schedule if event.who in NAMES} == {"all"}, "a machine's processes keep nothing anyway"
    assert {event.way for event in schedule} == {"both", "up", "down"}
    assert sum(event.seconds for event in schedule if event.kind == "weather") == 36000.0
    per_hour = Counter(event.kind for event in schedule if event.who == NAMES[0])
    assert 8 < per_hour["crash"] < 40, "two an hour"
    assert drawn(NONE, 1, AGENTS, NAMES, 36000.0) == []


def test_other_names_have_the_same_faults_and_more_nodes_change_nobodys() -> None:
    schedule = drawn(ALL, 1, AGENTS, NAMES, 3600.0)
    assert drawn(ALL, 1, AGENTS, NAMES[:-1], 3600.0) == [event for event in schedule if event.who != NAMES[-1]]
    renamed = drawn(ALL, 1, AGENTS, [f"z{name}" for name in NAMES], 3600.0)
    back = [msgspec.structs.replace(event, who=event.who.removeprefix("z")) for event in renamed]
    assert back == schedule
    assert drawn(ALL, 2, AGENTS, NAMES, 3600.0) != schedule


def test_each_fault_does_what_it_says() -> None:
    schedule = [
        FaultEvent(at=0.0, kind="skew", who="job_desk", amount=7.0, drift=0.01),
        FaultEvent(at=0.0, kind="skew", who="n001", amount=-3.0),
        FaultEvent(at=0.0, kind="slow", who="n000", amount=4.0),
        FaultEvent(at=60.0, kind="stall", who="n000", seconds=30.0),
        FaultEvent(at=61.0, kind="cut", who="n001", seconds=30.0, way="up"),
        FaultEvent(at=62.0, kind="pause", who="node_selector", seconds=30.0),
        FaultEvent(at=63.0, kind="weather", seconds=10.0),
        FaultEvent(at=100.0, kind="kill", who="n002"),
        FaultEvent(at=101.0, kind="crash", who="job_desk", seconds=5.0, keep="stale", older=20.0),
        FaultEvent(at=110.0, kind="crash", who="n001", seconds=1e6),
        FaultEvent(at=111.0, kind="pause", who="somebody else", seconds=1e6),
    ]
    request = msgspec.structs.replace(QUIET, min_nodes=3)
    world = World(1, NAMES[:3], 1.0, ALL, beat=10.0, schedule=schedule, request=request)
    plain = World(1, NAMES[:3], 1.0, ALL, beat=10.0, schedule=[], request=request)
    fleet, network = world.fleet, world.network
    assert fleet.agents["job_desk"].clock.now(100.0) == EPOCH + 108.0
    assert fleet.machines["n001"].clock.base == EPOCH - 3.0
    assert fleet.machines["n000"].sample_seconds == 4 * plain.fleet.machines["n000"].sample_seconds
    world.begin()
    assert network.faults.quiet
    world.advance(64.0)
    (stalled,), (cut,) = fleet.machines["n000"].jobs.values(), fleet.machines["n001"].jobs.values()
    assert all(each.paused == 90.0 for each in stalled.endpoints)
    assert fleet.nodes["n000"].endpoint.paused == 0.0, "its node goes on"
    assert not stalled.reachable(network.now)
    assert all((each.up_cut, each.down_cut) == (91.0, 0.0) for each in (*cut.endpoints, fleet.nodes["n001"].endpoint))
    assert fleet.agents["node_selector"].endpoint.paused == 92.0
    assert network.faults == ALL
    (killed,) = fleet.machines["n002"].jobs.values()
    world.advance(48.0)
    assert network.faults.quiet, "the weather is fine again"
    assert not killed.alive
    assert fleet.agents["job_desk"].forgot
    assert fleet.agents["job_desk"].lives == 2
    assert not fleet.nodes["n001"].alive
    assert world.chaos.done == schedule[:-1], "and nothing of whom isn't there"

"""Several jobs beside each other, as the selector divides the fleet among them: at once, with reasons, and steadily."""

import pytest
from node_selector_world import World

from schemas.decisions import ForceNode
from schemas.jobs import JobPhase
from schemas.nodes import Accelerator, NodeProfile
from schemas.training import Roster

FIVE = ("a", "b", "c", "d", "e")


def world_of(*nodes: str, **settings: object) -> World:
    world = World(**settings)
    world.fleet(*nodes)
    return world


def nodes_of(world: World, *names: str) -> list[tuple[str, ...]]:
    return [world.roster(name).nodes for name in names]


def test_a_second_job_gets_its_part_at_once_and_all_of_it_when_the_first_ends() -> None:
    world = world_of(*FIVE)
    world.start("one")
    assert world.roster("one").nodes == FIVE
    leader = world.roster("one").reducers[0]
    world.start("two")
    one, two = nodes_of(world, "one", "two")
    assert sorted(one + two) == list(FIVE)
    assert (len(one), len(two)) == (3, 2)
    assert world.roster("one").reducers[0] == leader, "who reduces stays"
    world.job("one", JobPhase.COMPLETED)
    assert world.roster("two").nodes == FIVE
    assert world.roster("two").reason.startswith("one has ended")


def test_each_change_says_why_and_who_has_what() -> None:
    world = world_of(*FIVE)
    world.start("one")
    world.start("two", weight=2)
    shares = "fair shares: one has 2 of 5 nodes, 40 % of their speed; two 3, 60 % (weight 2)"
    assert world.roster("one").reason == f"two: the job was accepted; {shares}"
    assert world.roster("two").reason == f"the job was accepted; {shares}"
    (other, *_) = world.roster("two").nodes
    assert world.why(other, "one") == "two has it: jobs share the fleet"


def test_a_job_alone_has_what_it_always_had() -> None:
    world = world_of(*FIVE)
    world.start("one", max_nodes=2)
    world.start("other", max_nodes=2)
    assert [len(nodes) for nodes in nodes_of(world, "one", "other")] == [2, 2]
    world.job("other", JobPhase.CANCELLED)
    assert world.core.state.jobs["one"].kept == {}
    assert {exclusion.reason[:21] for exclusion in world.roster("one").excluded} == {"the job takes 2 nodes"}


def test_speeds_that_were_measured_decide() -> None:
    world = world_of(*FIVE, share_seconds=0.0)
    world.start("one")
    for node in FIVE:
        world.steps(node, 0.25 if node == "e" else 1.0, name="one")  # e is worth the four others
    world.start("two")
    assert sorted(nodes_of(world, "one", "two"), key=len) == [("e",), ("a", "b", "c", "d")]


def test_what_of_a_nodes_computing_counts_decides_too() -> None:
    world = world_of(*FIVE)
    world.start("one")
    for node in FIVE:
        world.steps(node, 1.0, name="one")
    for _ in range(6):  # all compute as fast, but what comes of it differs by a factor of four
        late = dict.fromkeys("abcd", 3)
        world.close("e", late=late, name="one", samples=dict.fromkeys(FIVE, 400))
    world.start("two")
    assert sorted(nodes_of(world, "one", "two"), key=len) == [("e",), ("a", "b", "c", "d")]


def test_a_node_that_turns_out_slow_changes_hands_after_a_while() -> None:
    world = world_of("a", "b", "c", "d")
    world.start("one")
    world.start("two")
    one, two = nodes_of(world, "one", "two")
    for name, nodes in (("one", one), ("two", two)):
        for node in nodes:
            world.steps(node, 1.0 if name == "one" else 4.0, name=name)
    world.close(*one, name="one")
    assert nodes_of(world, "one", "two") == [one, two], "nobody knows whether jobs or nodes differ"
    for node in two:  # but where a node was seen by both, they can be compared
        world.steps(node, 4.0, name="one")
    world.close(*one, name="one")
    assert nodes_of(world, "one", "two") == [one, two], "the last change was just now"
    world.run(world.settings.share_seconds)
    world.close(*one, name="one")
    assert nodes_of(world, "one", "two") != [one, two]
    assert sum(len(nodes) for nodes in nodes_of(world, "one", "two")) == 4


def test_a_description_counts_until_something_is_measured() -> None:
    world = World()
    gpu = Accelerator(name="GPU", memory_bytes=1)
    for node in FIVE:
        world.give(
            NodeProfile(
                node=node, version=1, host="h", site="s", cpus=1, memory_bytes=1, accelerators=(gpu,) if node == "c" else ()
            )
        )
    world.fleet(*FIVE)
    world.start("one")
    world.start("two")
    assert sorted(nodes_of(world, "one", "two"), key=len) == [("c",), ("a", "b", "d", "e")]


def test_nodes_that_come_and_go_are_made_up_for() -> None:
    world = world_of("a", "b", "c", "d", share_seconds=0.0)
    world.start("one")
    world.start("two")
    for lost in world.roster("one").nodes:
        world.leave(lost)
    assert [len(nodes) for nodes in nodes_of(world, "one", "two")] == [1, 1]
    world.fleet("e", "f")
    assert [len(nodes) for nodes in nodes_of(world, "one", "two")] == [2, 2]


def test_a_node_that_flaps_costs_only_its_own_job() -> None:
    world = world_of(*FIVE, "f")
    world.start("one")
    world.start("two")
    (flapping, *_), steady = nodes_of(world, "one", "two")
    world.run(world.settings.share_seconds + 1)
    before = world.roster("two").version
    for _ in range(10):
        world.leave(flapping)
        world.run(3)
        world.fleet(flapping)
        world.run(3)
    assert world.roster("two").nodes == steady
    assert world.roster("two").version <= before + 20, "it is told why the node is out, no more"


def test_more_jobs_than_a_node_takes_wait() -> None:
    world = world_of("a", jobs_crowded=2)
    world.start("one")
    world.start("two")
    assert world.job("three") == []
    assert nodes_of(world, "one", "two") == [("a",), ("a",)]
    world.job("one", JobPhase.COMPLETED)
    assert world.roster("three").nodes == ("a",)


def test_what_needs_more_than_is_free_gets_it_or_waits() -> None:
    world = world_of("a", "b", "c")
    world.start("one")
    world.start("two", min_nodes=2)
    assert [len(nodes) for nodes in nodes_of(world, "one", "two")] == [1, 2]
    assert world.job("three", min_nodes=4) == []
    world.fleet("d")
    assert len(world.roster("three").nodes) == 4, "beside the others, since it asks for so many"


def test_a_job_that_stores_its_model_makes_room() -> None:
    world = world_of("a", "b", "c", "d")
    world.start("one")
    world.start("two")
    before = world.roster("one").nodes
    world.job("one", JobPhase.FINISHING)
    assert world.roster("two").nodes == ("a", "b", "c", "d")
    assert world.roster("one").nodes == before


def test_a_person_may_force_a_node_into_the_fleet_but_not_into_every_job() -> None:
    world = world_of("a", "b", "c", "d")
    world.start("one")
    world.start("two")
    world.give(ForceNode(node="a", do="include", reason="mended"))
    assert sum("a" in nodes for nodes in nodes_of(world, "one", "two")) == 1


def test_a_request_for_a_node_is_heard_by_both() -> None:
    world = world_of("a", "b", "c")
    world.start("one", include=("a",))
    world.start("two", include=("a",))
    assert all("a" in nodes for nodes in nodes_of(world, "one", "two"))


@pytest.mark.parametrize("remembers", [True, False])
def test_a_selector_that_was_restarted_divides_as_before(remembers: bool) -> None:
    world = world_of("a", "b", "c", "d")
    world.start("one")
    world.start("two")
    rosters = [world.roster(name) for name in ("one", "two")]
    world.reborn(remembers=remembers)
    for roster in rosters if not remembers else ():
        world.give(roster)
    for name in ("one", "two"):
        world.job(name, JobPhase.RUNNING)
    world.fleet("a", "b", "c", "d")
    assert nodes_of(world, "one", "two") == [roster.nodes for roster in rosters]


def test_rounds_that_close_move_nobody_without_need() -> None:
    world = world_of(*FIVE)
    world.start("one")
    world.start("two")
    before = len(world.all(Roster))
    for number in range(40):
        for name in ("one", "two"):
            for node in world.roster(name).nodes:
                world.steps(node, 1.0 + 0.1 * ((number + len(node)) % 3), name=name)
            world.close(*world.roster(name).nodes, name=name)
        world.run(5)
    assert len(world.all(Roster)) == before

"""Nodes that yield to their owners, as the selector sees them: out at once, back afterwards, and nobody's failure."""

import pytest
from node_selector_world import World

from schemas.decisions import ForceNode, NodeQuarantined
from schemas.nodes import NodeProfile, NodeYielding
from schemas.training import Roster


@pytest.fixture
def world() -> World:
    made = World()
    made.fleet("a", "b", "c")
    return made


def yields(world: World, node: str, version: int, why: str = "yields: its owner's programs use 80 %") -> list[Roster]:
    said = world.give(NodeYielding(node=node, version=version, yielding=True, reason=why))
    return [message for message in said if isinstance(message, Roster)]


def goes_on(world: World, node: str, version: int) -> list[Roster]:
    said = world.give(NodeYielding(node=node, version=version, yielding=False, reason="goes on"))
    return [message for message in said if isinstance(message, Roster)]


def test_it_is_out_at_once_and_back_when_it_ends(world: World) -> None:
    world.start()
    (roster,) = yields(world, "b", 1)
    assert roster.nodes == ("a", "c")
    assert roster.reason == "b: yields: its owner's programs use 80 %"
    assert world.why("b") == "yields: its owner's programs use 80 %"
    (roster,) = goes_on(world, "b", 2)
    assert roster.nodes == ("a", "b", "c")


def test_the_chain_of_causes_leads_to_the_nodes_word(world: World) -> None:
    world.start()
    yields(world, "b", 1)
    assert world.causes[-1].startswith("node/b:")


def test_a_first_reducer_that_yields_hands_over(world: World) -> None:
    world.start()
    first = world.roster().reducers[0]
    (roster,) = yields(world, first, 1)
    assert first not in roster.reducers
    assert roster.reducers


def test_yielding_again_and_again_is_no_misconduct(world: World) -> None:
    world.start()
    before = world.core.state.nodes["b"].conduct.attempts
    for number in range(20):
        yields(world, "b", 2 * number + 1)
        world.close("a", "c", missing=("b",))
        goes_on(world, "b", 2 * number + 2)
    assert world.all(NodeQuarantined) == []
    assert world.core.state.nodes["b"].conduct.attempts == before
    assert "b" in world.roster().nodes


def test_an_owner_counts_more_than_force_and_request(world: World) -> None:
    world.start(include=("b",))
    yields(world, "b", 1)
    world.give(ForceNode(node="b", do="include"))
    assert world.roster().nodes == ("a", "c")


def test_the_last_node_standing_yields_and_the_job_waits(world: World) -> None:
    world.start(min_nodes=2)
    yields(world, "a", 1)
    yields(world, "b", 1)
    (roster,) = yields(world, "c", 1)
    assert (roster.nodes, roster.reducers) == ((), ())
    assert roster.reason.startswith("nobody is left; waiting; c: yields")
    world.run(60)
    (roster,) = goes_on(world, "c", 2)
    assert roster.nodes == ("c",)


def test_a_job_doesnt_start_on_nodes_that_yield(world: World) -> None:
    yields(world, "a", 1)
    yields(world, "b", 1)
    assert world.job(min_nodes=2) == []
    (roster,) = goes_on(world, "a", 2)
    assert roster.nodes == ("a", "c")


def test_an_older_word_is_ignored(world: World) -> None:
    world.start()
    yields(world, "b", 5)
    assert goes_on(world, "b", 4) == []
    assert yields(world, "b", 5, "yields: other words") == []


def test_a_new_life_of_the_node_yields_to_nobody(world: World) -> None:
    world.start()
    yields(world, "b", 5)
    profile = NodeProfile(node="b", version=4, host="h", site="s", cpus=1, memory_bytes=1)
    assert world.give(profile) == [], "the profile of the life that yields"
    world.give(NodeProfile(node="b", version=1000, host="h", site="s", cpus=1, memory_bytes=1))
    assert "b" in world.roster().nodes


def test_another_reason_is_told(world: World) -> None:
    world.start()
    yields(world, "b", 1)
    (roster,) = yields(world, "b", 2, "yields: paused by hand")
    assert roster.nodes == ("a", "c")
    assert world.why("b") == "yields: paused by hand"


def test_a_selector_that_was_restarted_remembers_or_hears_it_again(world: World) -> None:
    world.start()
    yields(world, "b", 1)
    world.reborn(remembers=True)
    world.fleet("a", "b", "c")
    assert "b" not in world.roster().nodes


def test_it_is_not_blamed_for_rounds_before_its_process_is_up_again(world: World) -> None:
    world.start()
    yields(world, "b", 1)
    goes_on(world, "b", 2)
    attempts = world.core.state.nodes["b"].conduct.attempts
    for _ in range(5):
        world.close("a", "c", missing=("b",))
    assert world.core.state.nodes["b"].conduct.attempts == attempts


def test_a_node_that_leaves_jobs_a_share_stays_in(world: World) -> None:
    world.start()
    slow = NodeYielding(node="b", version=1, yielding=True, share=0.25, reason="yields: a build; jobs go on at 25 %")
    assert world.give(slow) == []
    assert world.core.state.nodes["b"].share == 0.25
    (roster,) = yields(world, "b", 2, "yields: paused by hand")
    assert roster.nodes == ("a", "c")
    (roster,) = goes_on(world, "b", 3)
    assert roster.nodes == ("a", "b", "c")
    assert world.core.state.nodes["b"].share == 1.0


def test_what_an_owner_leaves_counts_in_the_division_of_the_fleet() -> None:
    world = World()
    world.fleet("a", "b", "c", "d", "e")
    for node in "abcd":
        world.give(NodeYielding(node=node, version=1, yielding=True, share=0.25, reason="yields: a build"))
    world.start("one")
    world.start("two")
    assert sorted((world.roster("one").nodes, world.roster("two").nodes), key=len) == [("e",), ("a", "b", "c", "d")]

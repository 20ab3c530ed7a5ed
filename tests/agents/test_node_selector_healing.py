"""What the selector makes of the healer's orders: never against a person, nor at the price of a job that needs the node."""

import pytest
from node_selector_world import World

from agents.node_selector.state import Hold
from schemas.decisions import ForceNode, NodeQuarantined, NodeReleased
from schemas.healing import HealingOrdered, Remedy
from schemas.training import Roster


def order(world: World, remedy: Remedy, node: str = "b", job: str | None = "j", seconds: float = 100.0) -> None:
    """The healer speaks."""
    world.give(
        HealingOrdered(
            node=node, job=job, fault="crashed", remedy=remedy, ticket=1, seconds=seconds, judged_after=60, chance=0.5,
            reason="as it failed",
        )
    )  # fmt: skip


def running(**fields: object) -> World:
    """A job on four nodes."""
    world = World()
    world.fleet("a", "b", "c", "d")
    world.start(min_nodes=2, **fields)
    return world


@pytest.mark.parametrize("job", ["j", None])
def test_a_node_is_kept_out_for_so_long_and_comes_back(job: str | None) -> None:
    world = running()
    order(world, "move", job=job)
    assert "b" not in world.roster().nodes
    assert "by the healer: as it failed" in world.why("b")
    world.run(90)
    assert "b" not in world.roster().nodes
    world.run(20)
    assert "b" in world.roster().nodes
    assert not world.core.state.holds


@pytest.mark.parametrize("job", ["j", None])
def test_it_survives_a_restart_of_the_selector(job: str | None) -> None:
    world = running()
    order(world, "move", job=job)
    world.run(50)
    world.reborn(remembers=True)
    world.run(40)
    assert "b" not in world.roster().nodes
    world.run(20)
    assert "b" in world.roster().nodes


def test_an_order_given_again_counts_from_then() -> None:
    world = running()
    order(world, "demote")
    world.run(50)
    order(world, "demote")
    world.run(60)
    assert world.core.state.nodes["b"].demoted
    world.run(60)
    assert not world.core.state.nodes["b"].demoted


def test_nobody_is_taken_from_a_job_that_needs_it_and_who_was_taken_comes_back() -> None:
    world = running()
    order(world, "move", "a")
    order(world, "move", "b")
    order(world, "move", "c")
    assert len(world.roster().nodes) >= 2
    before = set(world.roster().nodes)
    for node in before:
        world.leave(node)
    assert set(world.roster().nodes) == {"a", "b", "c", "d"} - before
    assert world.all(NodeReleased)


def test_a_persons_word_counts_more() -> None:
    world = running()
    world.give(ForceNode(node="b", do="include"))
    order(world, "move")
    order(world, "quarantine")
    assert "b" in world.roster().nodes
    assert not world.all(NodeQuarantined)


def test_a_quarantine_is_one_of_the_selectors_own() -> None:
    world = running()
    order(world, "quarantine", job=None)
    assert "b" not in world.roster().nodes
    assert world.last(NodeQuarantined).seconds == 30.0
    world.run(31)
    assert "b" in world.roster().nodes
    assert world.core.state.nodes["b"].conduct.probation > 0


def test_what_failed_for_good_is_tried_once_more_but_not_refused_code() -> None:
    world = running()
    world.crash("b", retry=False)
    world.crash("c", "bundle", retry=False)
    assert set(world.roster().nodes) == {"a", "d"}
    order(world, "retry")
    order(world, "retry", "c")
    assert set(world.roster().nodes) == {"a", "b", "d"}


def test_others_reduce() -> None:
    world = running()
    first = world.roster().reducers[0]
    order(world, "demote", first)
    assert world.roster().reducers[0] != first
    assert first in world.roster().nodes


@pytest.mark.parametrize("remedy", ["restart", "shrink", "free", "wait"])
def test_what_others_carry_out_changes_no_roster(remedy: Remedy) -> None:
    world = running()
    before = len(world.all(Roster))
    order(world, remedy)
    assert len(world.all(Roster)) == before
    assert world.core.state.holds == dict[str, Hold]()

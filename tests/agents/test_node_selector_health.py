"""The node selector follows the failure detector while there is one, and its own time-out while there is none."""

import pytest
from node_selector_world import World

from schemas.decisions import NodeJoined, NodeLost
from schemas.health import DetectorWatching, Life, NodeHealth
from schemas.wire import Message


@pytest.fixture
def world() -> World:
    made = World()
    made.fleet("a", "b", "c")
    made.start()
    return made


def watching(world: World, hears: bool = True) -> None:
    world.give(DetectorWatching(nodes=3, suspects=0, hears=hears))


def watched(world: World, seconds: int) -> None:
    """Time goes by with a detector that says every second that it lives."""
    for _ in range(seconds):
        watching(world)
        world.run(1.0)


def word(world: World, node: str, state: Life = "dead", version: int = 1, behind: int = 0) -> list[Message]:
    """The detector's word on a node, about the last heartbeat that the selector heard, or one before."""
    record = world.core.state.nodes[node]
    beat = record.beat - behind
    return world.give(
        NodeHealth(
            node=node, version=version, state=state, life=record.life, beat=beat, silent_seconds=1.2, reason="it is cut off"
        )
    )


def test_a_death_counts_at_once_and_in_the_detectors_words(world: World) -> None:
    watching(world)
    said = word(world, "a")
    assert isinstance(said[0], NodeLost)
    assert world.last(NodeLost).reason == "it is cut off"
    assert world.roster().nodes == ("b", "c")
    assert world.core.state.nodes["a"].conduct.attempts > 0, "a job relied on it"


def test_a_word_about_an_earlier_heartbeat_is_forgotten(world: World) -> None:
    watching(world)
    assert word(world, "a", behind=1) == []
    world.kill("a")
    world.beat("a")  # its next life
    record = world.core.state.nodes["a"]
    old = NodeHealth(node="a", version=2, state="dead", life="1", beat=record.beat, reason="late")
    assert record.life == "2"
    assert world.give(old) == []
    assert world.all(NodeLost) == []


def test_an_older_word_is_not_heeded_after_a_newer(world: World) -> None:
    watching(world)
    word(world, "a", "alive", version=5)
    assert word(world, "a", "dead", version=4) == []


def test_while_a_detector_watches_silence_is_its_business(world: World) -> None:
    world.beating.discard("a")
    watched(world, 12)
    assert world.all(NodeLost) == []
    word(world, "a")
    assert [lost.node for lost in world.all(NodeLost)] == ["a"]
    world.fleet("a")
    assert world.last(NodeJoined).returned


def test_a_detector_that_never_decides_has_not_the_last_word(world: World) -> None:
    world.beating.discard("a")
    watched(world, 25)
    assert [lost.node for lost in world.all(NodeLost)] == ["a"]


@pytest.mark.parametrize("deaf", [True, False])
def test_without_a_detector_that_hears_the_time_out_decides(world: World, deaf: bool) -> None:
    watching(world)
    watching(world, hears=not deaf)
    if not deaf:
        world.run(5.5)  # it is killed
    world.kill("a")
    world.run(6.1)
    assert [lost.node for lost in world.all(NodeLost)] == ["a"]


def test_a_word_without_a_detector_waits_until_there_is_one_or_the_time_is_over(world: World) -> None:
    assert word(world, "a") == []
    world.beat("a")
    world.run(10)
    assert world.all(NodeLost) == [], "a heartbeat has answered it"
    world.beating.discard("a")
    word(world, "a", version=2)
    watched(world, 6)
    assert world.last(NodeLost).reason == "it is cut off"


def test_a_node_that_dies_as_its_detector_does_is_dead_after_both_have_their_time(world: World) -> None:
    watched(world, 3)
    world.kill("a")
    world.run(11.0)
    assert [lost.node for lost in world.all(NodeLost)] == ["a"]

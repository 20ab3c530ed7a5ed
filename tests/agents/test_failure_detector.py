"""The failure detector by direct calls: what makes a suspect, what a death, and what speaks for the accused."""

import math
import random

import msgspec
import pytest
from failure_detector_world import Detected
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.failure_detector import FailureDetectorSettings, policy
from agents.failure_detector.state import Ears, Watched
from schemas.bus import BusDisturbed
from schemas.health import DetectorWatching, NodeHealth, ReachAsked
from schemas.network import LinkProbed
from schemas.training import StepTimed, TrainingProgress, TransferTimed

SETTINGS = FailureDetectorSettings()


def fleet(*names: str, warm: float = 60.0, **options: float) -> Detected:
    """Nodes that have beaten for a minute."""
    world = Detected(*names, **options)  # type: ignore[arg-type]
    world.run(warm)
    return world


def test_nodes_that_beat_are_alive_and_nothing_else_is_said() -> None:
    world = fleet("a", "b", warm=600.0)
    assert world.states("a") == world.states("b") == ["alive"]
    assert world.all(ReachAsked) == []


def test_an_ended_connection_is_a_death_in_about_a_second() -> None:
    world = fleet("a", "b", "c")
    world.probed("a", 2.0)
    world.state["a"] = "gone"
    died = world.now
    world.run(10)
    assert world.states("a") == ["alive", "suspect", "dead"]
    assert world.when("a", "dead") - died < 2.0
    last = world.all(NodeHealth)[-1]
    assert "connection" in last.reason
    assert last.beat == world.beats["a"]
    assert world.causes[id(last)].startswith("node/a:1:"), "a death is caused by the last that was heard"


def test_a_node_behind_a_bad_link_has_the_time_that_its_link_takes_to_connect() -> None:
    world = fleet("a", "b", "c")
    waits = []
    for rtt_ms in (2.0, 250.0):
        world.probed("a", rtt_ms)
        waits.append(policy.reconnecting(world.core.state.nodes["a"], SETTINGS, shaken=False))
    assert waits[0] < 0.6
    assert waits[1] == pytest.approx(2.0, abs=0.1)


def test_a_connection_that_ends_later_than_it_was_asked_for_is_noticed() -> None:
    world = fleet("a", "b", "c", "d", warm=900.0)
    world.core.state.nodes["a"].gaps.worst = 8.0  # it is given ten seconds
    world.probed("a", 2.0)
    world.state["a"] = "stuck"
    world.run(4.5)
    world.state["a"] = "gone"
    died = world.now
    world.run(20)
    assert world.when("a", "dead") - died < 4.5


def test_a_connection_that_comes_back_is_no_death_and_teaches_how_long_that_takes() -> None:
    world = fleet("a", "b", "c")
    for _ in range(2):
        world.state["a"] = "stuck"  # it beats on its way to the server again
        world.core.state.nodes["a"].serves = True
        world.run(1.6)
        doubt = world.core.state.nodes["a"].doubt
        assert doubt is not None
        doubt.absent_at = world.now
        world.run(0.3)
        world.state["a"] = "up"
        world.run(60)
    assert "dead" not in world.states("a")
    assert world.core.state.nodes["a"].away > 0.2


def test_a_node_that_stands_still_is_dead_once_nobody_reaches_it() -> None:
    world = fleet("a", "b", "c", "d", warm=900.0)
    world.state["a"] = "stuck"
    died = world.now
    world.run(30)
    assert world.states("a") == ["alive", "suspect", "dead"]
    assert 2.0 < world.when("a", "dead") - died < 5.0, "sooner than five missed heartbeats, where beats are even"
    assert {asked.node for asked in world.all(ReachAsked)} == {"b", "c", "d"}
    assert "can't reach it either" in world.all(NodeHealth)[-1].reason


def test_a_node_of_which_nothing_is_known_has_the_plain_time_out() -> None:
    world = fleet("a", "b", warm=2.0)
    world.state["a"] = "stuck"
    died = world.now
    world.run(30)
    assert 4.0 < world.when("a", "dead") - died < 7.5


def test_a_node_that_answers_is_alive_though_its_heartbeats_are_lost() -> None:
    world = fleet("a", "b", "c")
    world.state["a"] = "quiet"
    world.run(120)
    assert world.states("a") == ["alive"]


def test_a_node_that_others_reach_is_not_dead_and_the_detector_doubts_itself() -> None:
    world = fleet("a", "b", "c", warm=600.0)
    world.to_others = lambda node: "answered"
    world.state["a"] = "stuck"
    world.run(30)
    assert "dead" not in world.states("a")
    assert max(watching.strain for watching in world.all(DetectorWatching)) > 0


def test_a_detector_that_is_cut_off_accuses_nobody() -> None:
    world = fleet("a", "b", "c")
    world.cut_off = True
    world.run(300)
    assert not world.all(DetectorWatching)[-1].hears
    world.cut_off = False
    world.run(60)
    assert world.states("a") == world.states("b") == ["alive"]
    assert world.all(DetectorWatching)[-1].hears


def test_a_detector_that_stood_still_accuses_nobody_and_learns_nothing_from_it() -> None:
    world = fleet("a", "b", "c", warm=600.0)
    before = {name: node.gaps.worst for name, node in world.core.state.nodes.items()}
    world.stand_still(40)
    world.run(30)
    assert world.states("a") == world.states("b") == ["alive"]
    assert all(node.gaps.worst <= before[name] for name, node in world.core.state.nodes.items())


def test_a_server_that_was_away_costs_nobody_its_life() -> None:
    world = fleet("a", "b", "c", "d", warm=600.0)
    for name in world.state:
        world.state[name] = "gone"
    world.run(2.0)
    for name in world.state:
        world.state[name] = "up"
        world.beats[name] += 2
        world.at(world.now + 0.9, lambda name=name: world._beat(name, 1))
    world.run(30)
    assert all("dead" not in world.states(name) for name in world.state)


def test_a_node_that_says_it_is_connected_again_is_alive() -> None:
    world = fleet("a", "b", "c", warm=600.0)
    world.state["a"] = "stuck"
    world.run(2.5)
    world.state["a"] = "quiet"
    again = BusDisturbed(kind="reconnected", reason="away for 2 s", seconds=2.0, source="node/a", id="node/a:1:99", at=1.0)
    world.give(again)
    assert world.states("a")[-1] == "alive"
    world.run(30)
    assert "dead" not in world.states("a")


def test_a_return_from_the_dead_teaches_patience() -> None:
    world = fleet("a", "b", warm=900.0)
    patience = policy.deadly(world.core.state.nodes["a"], Ears(), SETTINGS)
    world.state["a"] = "stuck"
    world.run(10)
    assert world.states("a")[-1] == "dead"
    world.state["a"] = "up"
    world.run(5)
    assert world.states("a")[-1] == "alive"
    assert policy.deadly(world.core.state.nodes["a"], Ears(), SETTINGS) > patience


def test_a_goodbye_is_told_and_its_stragglers_are_not_believed() -> None:
    world = fleet("a", "b")
    world.leave("a")
    assert world.states("a") == ["alive", "left"]
    world.state["a"] = "up"
    world._beat("a", 1)
    world.run(5)
    assert world.states("a") == ["alive", "left"]
    world.start("a")
    world.run(5)
    assert world.states("a") == ["alive", "left", "alive"]


def test_a_restarted_detector_gives_everybody_their_time_and_forgets_nothing() -> None:
    world = fleet("a", "b", "c")
    world.state["a"] = "stuck"
    world.run(1.5)
    learned = world.core.state.nodes["b"].gaps
    world.reborn()
    assert world.core.state.nodes["b"].gaps == learned
    reborn = world.now
    world.run(20)
    assert world.states("b") == ["alive"]
    assert world.when("a", "dead") > reborn + 2.0


def test_a_fleet_of_ten_second_beats_is_held_to_its_own_measure() -> None:
    world = fleet("a", "b", "c", warm=9000.0, interval=10.0)
    world.state["a"] = "stuck"
    died = world.now
    world.run(300)
    assert 20.0 < world.when("a", "dead") - died < 60.0


def test_a_node_takes_less_than_two_kilobytes() -> None:
    names = [f"node-{i:05d}" for i in range(5)]
    world = fleet(*names, warm=8.0)
    for name in names:
        for number in range(500):  # blocks of all its figures are full
            world.give(
                StepTimed(job="j", node=name, round=number, steps=7, samples=77, seconds=0.3, microbatch=8, loss=1.0)
            )
            world.give(TrainingProgress(job="j", node=name, round=number, doing="computing"))
            for direction in ("up", "down"):
                world.give(TransferTimed(job="j", node=name, direction=direction, bytes=number, seconds=0.3, streams=1))
            world.give(LinkProbed(node=name, sequence=number, rtt_ms=number / 7))
    assert 500 < len(msgspec.msgpack.encode(world.core.state)) / len(names) < 2000


# Arithmetic.


def gaps_of(draw: list[float], interval: float = 1.0) -> Watched:
    node = Watched(gaps=policy.unknown(interval, SETTINGS), interval=interval)
    for gap in draw:
        policy.learn(node.gaps, gap, interval)
    return node


@given(st.lists(st.floats(0.0, 30.0), max_size=200), st.floats(0.0, 60.0), st.floats(0.0, 60.0))
@settings(max_examples=60)
def test_suspicion_grows_with_silence_and_waits_are_in_order(draw: list[float], one: float, other: float) -> None:
    node = gaps_of(draw)
    low, high = sorted((one, other))
    assert policy.phi(node.gaps, low) <= policy.phi(node.gaps, high) + 1e-9
    doubt, suspect = policy.doubtful(node, SETTINGS), policy.suspicious(node, Ears(), SETTINGS)
    dead = policy.deadly(node, Ears(), SETTINGS)
    assert doubt <= suspect <= dead <= SETTINGS.most_beats * node.interval
    assert dead >= SETTINGS.dead_beats * node.interval
    assert policy.deadly(node, Ears(strain=4), SETTINGS) >= dead


def test_the_tail_is_that_of_the_gaps() -> None:
    rng = random.Random(3)
    node = gaps_of([1.0 + rng.expovariate(10.0) for _ in range(5000)])
    true = 1.0 + -math.log(0.05) / 10.0
    assert node.gaps.high == pytest.approx(true, abs=0.15)
    assert node.gaps.excess == pytest.approx(0.1, abs=0.07)
    silence = policy.silence_of(node.gaps, 4.0)
    assert policy.phi(node.gaps, silence) == pytest.approx(4.0)


@pytest.mark.parametrize("announced", [0.0, -1.0, float("nan"), 1e300])
def test_absurd_intervals_are_bounded(announced: float) -> None:
    low, high = policy.INTERVALS
    assert low <= policy.bounded_interval(announced) <= high

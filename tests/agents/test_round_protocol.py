"""Rounds open and close whatever happens to the nodes: real trainer and reducer cores in virtual time."""

import itertools
from functools import partial

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.anchors import CaughtUp
from schemas.nodes import WorkEnded
from schemas.training import Assignment, AverageOffered, RoundApplied, RoundClosed, StepTimed, TrainingProgress
from tests.agents.job_cluster import JOB, JobCluster, Node


def nodes(count: int, **slow: float) -> list[Node]:
    return [Node(name, step_seconds=slow.get(name, 0.1)) for name in "abcdefgh"[:count]]


def counted_once(cluster: JobCluster) -> None:
    seen: set[tuple[str, int]] = set()
    for closed in cluster.closed.values():
        for contribution in closed.contributions:
            key = (contribution.node, contribution.round)
            assert key not in seen, f"{key} was counted twice"
            seen.add(key)
        assert sum(c.weight for c in closed.contributions) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_job_of_equal_nodes_closes_every_round_with_everybody(count: int) -> None:
    cluster = JobCluster(nodes(count), rounds=4)
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    assert sorted(cluster.closed) == [1, 2, 3, 4]
    assert all(len(closed.contributions) == count and closed.on_time for closed in cluster.closed.values())
    assert all(closed.contributions[0].late == 0 for closed in cluster.closed.values())
    counted_once(cluster)


def test_slow_node_does_not_hold_the_round_and_counts_late() -> None:
    cluster = JobCluster(nodes(4, d=0.9), rounds=6)
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    late = [c for closed in cluster.closed.values() for c in closed.contributions if c.node == "d"]
    assert late, "what came late was lost"
    assert all(c.late >= 1 for c in late)
    for closed in cluster.closed.values():
        assert closed.seconds < 6.0
        for mine in closed.contributions:
            on_time = next(c for c in closed.contributions if c.late == 0)
            a_sample = on_time.weight / on_time.samples
            assert mine.weight == pytest.approx(mine.samples * a_sample / (1 + mine.late))
    counted_once(cluster)


@pytest.mark.parametrize("victim", ["a", "b", "d"])
def test_killed_node_costs_at_most_its_deadline(victim: str) -> None:
    cluster = JobCluster(nodes(4), rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    at = cluster.now
    cluster.kill(victim)
    cluster.run(until=lambda: len(cluster.closed) == 3)
    assert 3 in cluster.closed
    assert cluster.now - at < 3.0 + 4.0 + 3.0, "detection, one deadline, and the averaging"
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    assert all(victim not in closed.average.holders or closed.round <= 3 for closed in cluster.closed.values())
    counted_once(cluster)


def test_silent_reducer_is_taken_over_with_a_higher_term() -> None:
    cluster = JobCluster(nodes(4), rounds=5)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.kill("a", told=False)
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    assert cluster.closed[2].reducer == "b"
    assert cluster.closed[2].term > cluster.closed[1].term


def test_paused_reducer_that_wakes_does_no_harm() -> None:
    cluster = JobCluster(nodes(4), rounds=5)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.nodes["a"].muted = True
    cluster.run(seconds=15)
    cluster.nodes["a"].muted = False
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    counted_once(cluster)


def test_node_that_returns_catches_up_and_contributes_again() -> None:
    cluster = JobCluster(nodes(3), rounds=12)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    cluster.kill("c")
    cluster.run(until=lambda: len(cluster.closed) == 8)
    cluster.boot(cluster.nodes["c"])
    cluster.run(until=lambda: cluster.finished)
    caught_up = [event for event in cluster.said(CaughtUp) if event.node == "c"]
    assert caught_up
    assert caught_up[0].version >= 8
    assert any(c.node == "c" for closed in cluster.closed.values() if closed.round > 8 for c in closed.contributions)
    counted_once(cluster)


def test_all_nodes_start_from_the_reducers_parameters() -> None:
    odd = nodes(3)
    odd[2].salt = "other"
    cluster = JobCluster(odd, rounds=2)
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    assert odd[2].salt == ""
    assert not cluster.mismatches


def test_node_with_other_bits_is_named_and_mended() -> None:
    cluster = JobCluster(nodes(3), rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    cluster.nodes["c"].salt = "flipped"
    cluster.run(until=lambda: cluster.finished)
    assert {found.suspect for found in cluster.mismatches} == {"c"}
    assert cluster.nodes["c"].salt == ""


def test_job_goes_on_from_the_last_checkpoint_when_all_that_held_the_anchor_are_dead() -> None:
    cluster = JobCluster(nodes(3), rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 3)
    for name in "abc":
        cluster.kill(name)
    cluster.run(seconds=5)
    for name in "abc":
        cluster.boot(cluster.nodes[name])
    cluster.run(seconds=300, until=lambda: cluster.finished)
    assert cluster.finished, "the job stands still"
    assert any("are lost with all that held them" in event.reason for event in cluster.said(CaughtUp))
    assert not cluster.mismatches
    counted_once(cluster)


def test_node_that_trains_alone_waits_for_nobody_when_it_comes_back() -> None:
    cluster = JobCluster(nodes(1), rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 3)
    cluster.kill("a")
    cluster.boot(cluster.nodes["a"])
    cluster.run(seconds=20, until=lambda: cluster.finished)
    assert cluster.finished, "it waits for a node that never was"
    counted_once(cluster)


def test_node_that_waits_is_heard_before_its_silence_counts_as_a_hang() -> None:
    cluster = JobCluster(nodes(2), rounds=3, hang_seconds=3.0)
    cluster.kill("b", told=False)
    begun = cluster.now
    cluster.run(seconds=15)
    heard = [m.at for m in cluster.said(TrainingProgress) if m.node == "a" and m.at > begun + 1.0]
    assert len(heard) > 5
    assert max(later - earlier for earlier, later in itertools.pairwise(heard)) < 3.0


def test_node_that_contributes_now_and_then_is_not_waited_for() -> None:
    cluster = JobCluster(nodes(3, c=1.0), rounds=8)
    first = cluster.present[2]
    assert isinstance(first, Assignment)
    shares = first.shares | {"c": msgspec.structs.replace(first.shares["c"], every=4)}
    cluster.present[2] = msgspec.structs.replace(first, version=2, shares=shares)
    cluster.publish(msgspec.structs.replace(first, version=2, shares=shares), "batch_controller")
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    assert all("c" not in closed.missing and closed.on_time for closed in cluster.closed.values())
    assert any(c.node == "c" for closed in cluster.closed.values() for c in closed.contributions)
    counted_once(cluster)


def test_a_round_that_is_open_stops_waiting_for_a_node_whose_link_turns_out_to_be_slow() -> None:
    cluster = JobCluster(nodes(3, c=3.0), rounds=2)
    first = cluster.present[2]
    assert isinstance(first, Assignment)
    cluster.run(until=lambda: len(cluster.openings) == 1)
    cluster.run(4.0)
    assert not cluster.closed, "c is waited for"
    shares = first.shares | {"c": msgspec.structs.replace(first.shares["c"], every=4)}
    cluster.publish(msgspec.structs.replace(first, version=2, shares=shares), "batch_controller")
    cluster.run(1.0, until=lambda: bool(cluster.closed))
    assert {c.node for c in cluster.closed[1].contributions} == {"a", "b"}
    assert cluster.closed[1].on_time
    counted_once(cluster)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    speeds=st.lists(st.floats(0.02, 1.0), min_size=2, max_size=6),
    kills=st.lists(st.tuples(st.floats(2.0, 30.0), st.integers(0, 5), st.booleans()), max_size=4),
    returns=st.floats(2.0, 15.0),
)
def test_whatever_dies_and_returns_the_job_completes(
    seed: int, speeds: list[float], kills: list[tuple[float, int, bool]], returns: float
) -> None:
    fleet = nodes(len(speeds))
    for node, speed in zip(fleet, speeds, strict=True):
        node.step_seconds = speed
    cluster = JobCluster(fleet, rounds=6, seed=seed)

    for at, index, told in kills:
        cluster.later(at, partial(cluster.kill_for_a_while, index, told=told, seconds=returns + 3.0))
    cluster.run(seconds=600, until=lambda: cluster.finished)
    assert cluster.finished, "the job stands still"
    counted_once(cluster)
    rounds = [event.round for event in cluster.said(RoundClosed)]
    assert rounds == sorted(set(rounds)), "rounds close once, in order"
    digests = {(event.version, event.digest) for event in cluster.said(RoundApplied)}
    assert len({version for version, _ in digests}) == len(digests)


def test_a_fleet_whose_last_node_yields_goes_on_from_where_it_was() -> None:
    cluster = JobCluster(nodes(2), rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    cluster.enroll("a", version=2)
    cluster.kill("b", told=False)
    cluster.run(until=lambda: len(cluster.closed) == 3)
    cluster.run(seconds=0.5)
    trained = len(cluster.said(StepTimed))
    cluster.enroll(version=3)
    cluster.run(seconds=60)
    assert len(cluster.said(StepTimed)) == trained, "steps go on although the roster is empty"
    assert len(cluster.closed) == 3
    cluster.enroll("a", version=4)
    cluster.run(seconds=60, until=lambda: cluster.finished)
    assert cluster.finished, "the job stands still"
    assert not cluster.said(CaughtUp), "nothing was lost"
    counted_once(cluster)


def test_a_node_whose_process_was_ended_is_not_waited_for_until_it_is_ready_again() -> None:
    cluster = JobCluster(nodes(3), rounds=40)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    cluster.kill("c", told=False)
    cluster.publish(WorkEnded(node="c", job=JOB, reason="its node yields"), "node/c")
    seen = len(cluster.openings)
    cluster.run(until=lambda: len(cluster.closed) == 6)
    assert all("c" not in opened.expected for opened in cluster.openings[seen + 1 :])
    cluster.boot(cluster.nodes["c"])
    cluster.run(until=lambda: "c" in cluster.openings[-1].expected)
    assert "c" in cluster.openings[-1].expected


def test_a_node_that_leaves_the_roster_in_mid_round_is_waited_for_no_longer() -> None:
    cluster = JobCluster(nodes(3, c=2.0), rounds=40)
    cluster.run(until=lambda: len(cluster.openings) == 1)
    assert "c" in cluster.openings[-1].expected
    cluster.run(seconds=1.5)
    cluster.enroll("a", "b", version=2)
    left = cluster.now
    cluster.run(until=lambda: len(cluster.closed) == 1)
    assert cluster.now - left < 2.0, "its deadline is 4 s after the opening"


def test_whoever_kept_the_anchor_reduces_when_nodes_without_one_come_first() -> None:
    cluster = JobCluster(nodes(3), rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 3)
    for name in "bc":
        cluster.kill(name, told=False)
        cluster.publish(WorkEnded(node=name, job=JOB, reason="its node yields"), f"node/{name}")
    cluster.enroll("a", version=2)
    cluster.enroll(version=3)
    cluster.run(seconds=30)
    cluster.enroll("c", version=4)
    cluster.boot(cluster.nodes["c"])
    cluster.enroll("c", "a", version=5)
    back = cluster.now
    opened = len(cluster.openings)
    cluster.run(until=lambda: len(cluster.openings) > opened)
    assert cluster.now - back < 3.0
    cluster.run(seconds=60, until=lambda: cluster.finished)
    assert cluster.finished
    counted_once(cluster)


def test_a_holder_that_leaves_the_roster_is_not_waited_for() -> None:
    cluster = JobCluster(nodes(2), rounds=9)
    cluster.nodes["b"].transfer_seconds = 1.0
    cluster.run(until=lambda: len(cluster.said(AverageOffered)) == 1)
    offered = cluster.now
    cluster.enroll("a", version=2)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    assert cluster.now - offered < 0.5

"""`sync = "overlap"`: steps of the next round while the last difference travels. Real cores in virtual time."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.fragments import WHOLE, parts_of, turn_of, turns_late
from schemas.jobs import JobRequest
from schemas.training import ContributionOffered, RoundApplied
from tests.agents.job_cluster import JobCluster, Node


def job(rounds: int, seed: int = 0, transfer: float = 0.4, sync: str = "overlap", **seconds: float) -> JobCluster:
    fleet = [Node(name, step_seconds=each, transfer_seconds=transfer) for name, each in seconds.items()]
    return JobCluster(fleet, rounds=rounds, seed=seed, sync=sync)


def sound(cluster: JobCluster) -> None:
    """Every round closed once, every difference counted at most once, all anchors the same, nobody too far ahead."""
    assert cluster.finished
    assert sorted(cluster.closed) == list(range(1, cluster.rounds + 1))
    counted = [(c.node, c.round) for closed in cluster.closed.values() for c in closed.contributions]
    assert len(counted) == len(set(counted))
    digests = {(event.version, event.digest) for event in cluster.said(RoundApplied)}
    assert len({version for version, _ in digests}) == len(digests)
    for node in cluster.nodes.values():
        assert all(round_ <= version + 2 for round_, version in node.begun)
    assert all(1 <= offer.round <= cluster.rounds for offer in cluster.said(ContributionOffered))


def span(cluster: JobCluster) -> float:
    """Seconds from the first round's closing to the last one's."""
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    return cluster.closed[cluster.rounds].at - cluster.closed[1].at


def test_a_round_takes_as_long_as_its_steps_while_transfers_are_shorter() -> None:
    steps = 1.0
    plain, beside = (span(job(12, sync=sync, a=steps / 10, b=steps / 10)) for sync in ("round", "overlap"))
    assert plain > 11 * (steps + 0.8)
    assert beside < 11 * (steps + 0.1)


def test_a_round_takes_as_long_as_its_transfers_where_they_are_longer() -> None:
    plain, beside = (span(job(12, transfer=1.5, sync=sync, a=0.1, b=0.1)) for sync in ("round", "overlap"))
    assert plain > 11 * (1.0 + 3.0)
    assert beside < 11 * 3.3


def test_steps_of_the_next_round_begin_before_the_round_is_closed_and_no_further_ahead() -> None:
    cluster = job(6, a=0.1, b=0.1)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    for node in cluster.nodes.values():
        assert [round_ for round_, _ in node.begun] == [1, 2, 3, 4, 5, 6]
        assert all(round_ == version + 2 for round_, version in node.begun[1:])


def test_a_node_alone_makes_all_rounds() -> None:
    cluster = job(5, a=0.1)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)


def test_a_refused_difference_is_made_anew_from_the_anchor() -> None:
    cluster = job(6, a=0.1, b=0.1)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    bad = cluster.nodes["b"]
    bad.garbage = True
    cluster.run(until=lambda: len(cluster.closed) == 4)
    bad.garbage = False
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    rounds = [round_ for round_, _ in bad.begun]
    assert len(rounds) > len(set(rounds)), "steps for a round whose difference was refused are taken again"
    assert {c.node for c in cluster.closed[6].contributions} == {"a", "b"}


def test_a_job_of_one_node_outlives_a_refusal() -> None:
    cluster = job(4, a=0.1)
    cluster.nodes["a"].garbage = True
    cluster.run(seconds=20.0)
    assert not cluster.closed
    cluster.nodes["a"].garbage = False
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)


def test_a_slow_nodes_differences_count_late() -> None:
    cluster = job(12, a=0.1, b=0.1, c=0.7)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    late = [c for closed in cluster.closed.values() for c in closed.contributions if c.node == "c"]
    assert late
    assert any(c.late for c in late)


def test_whoever_leaves_the_roster_gives_up_steps_that_wait_too() -> None:
    cluster = job(8, transfer=1.5, a=0.1, b=0.1, c=0.1)
    cluster.run(until=lambda: cluster.nodes["c"].cores["trainer"].state.ready is not None)
    cluster.enroll("a", "b", version=2)
    cluster.run(seconds=1.0)
    assert cluster.nodes["c"].cores["trainer"].state.ready is None
    cluster.enroll("a", "b", "c", version=3)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert {c.node for c in cluster.closed[8].contributions} == {"a", "b", "c"}


Fault = tuple[str, Any]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    speeds=st.lists(st.sampled_from([0.05, 0.1, 0.3, 0.9]), min_size=2, max_size=4),
    transfers=st.lists(st.sampled_from([0.05, 0.4, 2.0]), min_size=4, max_size=4),
    killed=st.sampled_from(["", "a", "b"]),
    at=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_whatever_dies_and_however_slow(
    speeds: list[float], transfers: list[float], killed: str, at: int, seed: int
) -> None:
    fleet = [Node(name, step, transfer) for name, step, transfer in zip("abcd", speeds, transfers, strict=False)]
    cluster = JobCluster(fleet, rounds=8, seed=seed, sync="overlap")
    cluster.run(until=lambda: len(cluster.closed) >= at)
    if killed:
        cluster.kill(killed)
        cluster.run(seconds=5.0)
        cluster.boot(cluster.nodes[killed])
    cluster.run(seconds=600.0, until=lambda: cluster.finished)
    sound(cluster)


@pytest.mark.parametrize("rounds", [1, 2])
def test_short_jobs_end(rounds: int) -> None:
    cluster = job(rounds, a=0.1, b=0.1)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)


# The model in fragments.


def in_fragments(rounds: int, parts: int, seed: int = 0, **seconds: float) -> JobCluster:
    fleet = [Node(name, step_seconds=each, transfer_seconds=0.4) for name, each in seconds.items()]
    return JobCluster(fleet, rounds=rounds, seed=seed, sync="overlap", fragments=parts)


def one_fragment_a_round(cluster: JobCluster, parts: int) -> None:
    """A round averages differences of one fragment, and the last one those that are of everything."""
    sound(cluster)
    for closed in cluster.closed.values():
        turns = {turn_of(c.round, parts, cluster.rounds) for c in closed.contributions}
        assert turns == {turn_of(closed.round, parts, cluster.rounds)}
        raw = [c.samples / (1 + turns_late(c.round, closed.round, parts)) for c in closed.contributions]
        assert [c.weight for c in closed.contributions] == pytest.approx([weight / sum(raw) for weight in raw])


def test_a_late_difference_of_a_fragment_waits_for_its_turn() -> None:
    cluster = in_fragments(20, 3, a=0.1, b=0.1)
    cluster.run(until=lambda: len(cluster.closed) == 5)
    slow = cluster.nodes["b"]
    slow.transfer_seconds = 6.0
    cluster.run(until=lambda: len(cluster.closed) == 6)
    slow.transfer_seconds = 0.4
    cluster.run(until=lambda: cluster.finished)
    one_fragment_a_round(cluster, 3)
    late = [(c.round, closed.round) for closed in cluster.closed.values() for c in closed.contributions if c.late]
    assert late
    assert all(counted - made == 3 for made, counted in late)


def test_a_node_with_many_late_fragments_goes_on() -> None:
    cluster = in_fragments(24, 4, a=0.1, b=0.1, c=0.1)
    cluster.nodes["c"].transfer_seconds = 9.0
    cluster.run(seconds=600.0, until=lambda: cluster.finished)
    one_fragment_a_round(cluster, 4)
    assert {c.round % 4 for x in cluster.closed.values() for c in x.contributions if c.node == "c"} == {0, 1, 2, 3}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    speeds=st.lists(st.sampled_from([0.05, 0.1, 0.3, 0.9]), min_size=2, max_size=4),
    transfers=st.lists(st.sampled_from([0.05, 0.4, 2.0, 5.0]), min_size=4, max_size=4),
    killed=st.sampled_from(["", "a", "b"]),
    at=st.integers(1, 5),
    parts=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_fragments_whatever_dies(
    speeds: list[float], transfers: list[float], killed: str, at: int, parts: int, seed: int
) -> None:
    fleet = [Node(name, step, transfer) for name, step, transfer in zip("abcd", speeds, transfers, strict=False)]
    cluster = JobCluster(fleet, rounds=12, seed=seed, sync="overlap", fragments=parts)
    cluster.run(until=lambda: len(cluster.closed) >= at)
    if killed:
        cluster.kill(killed)
        cluster.run(seconds=5.0)
        cluster.boot(cluster.nodes[killed])
    cluster.run(seconds=900.0, until=lambda: cluster.finished)
    one_fragment_a_round(cluster, parts)


def test_how_many_fragments_a_model_has() -> None:
    def asked(**fields: Any) -> JobRequest:
        return JobRequest(kind="train", workload="m:w", **fields)

    assert parts_of(asked(), 100_000_000) == 1
    assert parts_of(asked(sync="overlap"), 0) == 1
    assert parts_of(asked(sync="overlap"), 7_900_000) == 1
    assert parts_of(asked(sync="overlap"), 12_000_000) == 3
    assert parts_of(asked(sync="overlap"), 1_000_000_000) == 8
    assert parts_of(asked(sync="overlap", fragments=4), 1_000_000) == 4
    assert parts_of(asked(sync="overlap", fragments=4), 3) == 3


@given(parts=st.integers(2, 16), rounds=st.integers(2, 200))
def test_every_fragment_has_its_turn_and_the_last_round_has_all(parts: int, rounds: int) -> None:
    turns = [turn_of(round_, parts, rounds) for round_ in range(1, rounds + 1)]
    assert turns[-1] == WHOLE
    assert WHOLE not in turns[:-1]
    for start in range(len(turns) - parts):
        assert set(turns[start : start + parts]) == set(range(parts))

"""Rounds that several nodes reduce, each its shard: real cores in virtual time, whatever dies."""

from functools import partial

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from schemas.ids import NodeId
from schemas.shards import AverageOrdered, PiecesReceived
from schemas.training import AverageOffered, ContributionReceived, ContributionRefused, RoundApplied, RoundClosed
from tests.agents.job_cluster import JobCluster, Node, shard_name

PARAMETERS = 100_000  # some dozen pieces would fit


def job(count: int = 4, rounds: int = 5, **asked: int) -> JobCluster:
    return JobCluster([Node(name) for name in "abcdef"[:count]], rounds=rounds, parameters=PARAMETERS, reducers=4, **asked)


def sound(cluster: JobCluster, *, alone: bool = False) -> None:
    """Closed rounds list everything once, in order, in whole averages; everybody applied the same."""
    assert cluster.finished, "the job stands still"
    counted = [(c.node, c.round) for closed in cluster.closed.values() for c in closed.contributions]
    assert len(counted) == len(set(counted))
    closings = [event.round for event in cluster.said(RoundClosed)]
    assert closings == sorted(set(closings))
    for closed in cluster.closed.values():
        assert sum(c.weight for c in closed.contributions) == pytest.approx(1.0)
        pieces = [piece for shard in closed.average.shards for piece in shard.pieces]
        assert sorted(pieces) == list(range(cluster.cut)), "half an average, or a piece twice"
        assert all(len(set(shard.holders)) > 1 for shard in closed.average.shards) or alone
        *_, order = [o for o in cluster.said(AverageOrdered) if (o.node, o.round, o.term) == _by(closed)]  # who was killed
        assert {(p.node, p.round) for p in order.parts} == {(c.node, c.round) for c in closed.contributions}  # orders again
        made = {shard_name(order.round, order.term, shard.holders[0], order.parts) for shard in closed.average.shards}
        assert made == {shard.digest for shard in closed.average.shards}, "an average that was not ordered"
    for (node, version), average in cluster.applied.items():
        assert average.shards == cluster.closed[version].average.shards, f"{node} applied another average"
    digests = {(event.version, event.digest) for event in cluster.said(RoundApplied)}
    assert len({version for version, _ in digests}) == len(digests)
    for node in cluster.nodes.values():
        if node.alive:
            # Two differences of each fragment may wait with each node.
            assert len(node.pieces) <= 4 * len(cluster.nodes), "collected pieces are not freed"


def _by(closed: RoundClosed) -> tuple[NodeId, int, int]:
    return closed.reducer, closed.round, closed.term


def makers(cluster: JobCluster, round_: int) -> set[NodeId]:
    return {e.node for e in cluster.said(AverageOffered) if e.round == round_ and e.term == cluster.closed[round_].term}


def test_everybody_reduces_a_shard_and_nobody_gets_everything() -> None:
    cluster = job()
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert all(closed.on_time and len(closed.contributions) == 4 for closed in cluster.closed.values())
    assert makers(cluster, 3) == set("abcd")
    assert all(len(shard.pieces) == cluster.cut // 4 for shard in cluster.closed[3].average.shards)
    assert {c.norm for c in cluster.closed[3].contributions} == {2.0}
    received = [e for e in cluster.said(ContributionReceived) if e.round == 3]
    assert sorted(e.contributor for e in received) == list("abcd"), "once each, by the round's reducer"
    assert {e.node for e in received} == {"a"}


def test_one_reducer_is_enough_where_nobody_else_is_fit() -> None:
    cluster = job()
    cluster.enroll("a", "b", version=2)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert makers(cluster, 4) == {"a", "b"}


def test_who_is_left_alone_reduces_everything_and_sends_its_own_difference_nowhere() -> None:
    cluster = job(count=2, rounds=4)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.kill("b")
    cluster.run(until=lambda: cluster.finished)
    sound(cluster, alone=True)
    assert makers(cluster, 4) == {"a"}


def test_as_many_as_are_asked_for_at_most() -> None:
    cluster = JobCluster([Node(name) for name in "abcd"], rounds=3, parameters=PARAMETERS, reducers=2)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert makers(cluster, 2) == {"a", "b"}


def waits_for_averages(cluster: JobCluster, round_: int) -> float:
    """Seconds from a round's order until the last shard of its average is offered."""
    (ordered,) = (e.at for e in cluster.said(AverageOrdered) if e.round == round_)
    return max(e.at for e in cluster.said(AverageOffered) if e.round == round_) - float(ordered)


def test_averages_are_made_before_they_are_ordered() -> None:
    cluster = job()
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert waits_for_averages(cluster, 3) < 0.1, "making one takes a tenth of a second"


def test_an_average_that_is_ordered_otherwise_is_made_again_and_the_next_ones_wait_for_their_orders() -> None:
    cluster = job(rounds=14)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    cluster.nodes["d"].too_long = True
    cluster.run(until=lambda: len(cluster.closed) == 4)
    cluster.nodes["d"].too_long = False
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    waits = {round_: waits_for_averages(cluster, round_) for round_ in cluster.closed}
    assert [round_ for round_, seconds in waits.items() if seconds >= 0.1] == list(range(3, 11))


@pytest.mark.parametrize("told", [True, False], ids=["told", "silent"])
@pytest.mark.parametrize("moment", ["collecting", "ordered", "offered"])
def test_a_helper_that_dies_costs_a_deadline_at_most(moment: str, told: bool) -> None:
    cluster = job(rounds=4)
    kinds = {"collecting": PiecesReceived, "ordered": AverageOrdered, "offered": AverageOffered}

    def due() -> bool:
        return any(event.round == 2 for event in cluster.said(kinds[moment]))

    cluster.run(until=due)
    at = cluster.now
    cluster.kill("c", told=told)
    cluster.run(until=lambda: 2 in cluster.closed)
    assert 2 in cluster.closed
    # The deadline is 4 s, as is the patience with an average; a silent one's own difference is waited for once more.
    assert cluster.now - at < (3.0 + 4.0 if told else 4.0 + 4.0 + 2.0)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert "c" not in makers(cluster, 4)


def test_a_helper_that_nothing_reaches_is_done_without() -> None:
    cluster = job(rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.nodes["d"].deaf = True
    cluster.run(until=lambda: len(cluster.closed) == 3)
    assert "d" not in makers(cluster, 3)
    at = cluster.now
    cluster.run(until=lambda: len(cluster.closed) == 4)
    assert cluster.now - at < 5.0, "once is enough: its shard is others' for a while, and rounds wait for its difference"


def test_a_reducer_that_takes_over_needs_little_again() -> None:
    cluster = job(rounds=4)
    cluster.run(until=lambda: any(event.round == 2 and event.node != "a" for event in cluster.said(PiecesReceived)))
    cluster.run(seconds=0.5)
    cluster.kill("a")
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert cluster.closed[2].reducer == "b"
    assert cluster.closed[2].term > cluster.closed[1].term


def test_what_is_unsound_at_one_helper_is_refused_and_freed_by_all() -> None:
    cluster = job(rounds=4)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.nodes["d"].garbage = True
    cluster.run(until=lambda: len(cluster.closed) == 2)
    cluster.nodes["d"].garbage = False
    cluster.run(until=lambda: cluster.finished)
    assert {e.contributor for e in cluster.said(ContributionRefused)} == {"d"}
    assert "d" not in {c.node for c in cluster.closed[2].contributions}
    sound(cluster)


def test_a_difference_that_is_not_cut_like_the_jobs_is_refused() -> None:
    cluster = job(rounds=3)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.cut -= 1
    cluster.run(seconds=3.0)
    assert any("pieces where the job's are in" in event.reason for event in cluster.said(ContributionRefused))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    speeds=st.lists(st.floats(0.02, 0.6), min_size=2, max_size=6),
    kills=st.lists(st.tuples(st.floats(2.0, 20.0), st.integers(0, 5), st.booleans()), max_size=4),
    returns=st.floats(2.0, 15.0),
    sync=st.sampled_from(["round", "overlap"]),
    clipped=st.one_of(st.none(), st.floats(0.0, 10.0)),
)
@example(  # the fourth node goes on collecting by the opening of one who died, whose number the next one gave as well
    seed=2371,
    speeds=[0.55, 0.49, 0.1, 0.45],
    kills=[(3.5, 2, False), (6.8, 0, True), (12.3, 1, True)],
    returns=9.0,
    sync="overlap",
    clipped=None,
)
def test_whatever_dies_and_returns_no_half_average_is_applied(
    seed: int, speeds: list[float], kills: list[tuple[float, int, bool]], returns: float, sync: str, clipped: float | None
) -> None:
    fleet = [Node(name, step_seconds=speed) for name, speed in zip("abcdef", speeds, strict=False)]
    asked = {"fragments": 2} if sync == "overlap" else {}
    cluster = JobCluster(fleet, rounds=5, seed=seed, parameters=PARAMETERS, reducers=4, sync=sync, **asked)

    if clipped is not None:
        cluster.later(clipped, lambda: setattr(fleet[0], "too_long", True))
    for at, index, told in kills:
        cluster.later(at, partial(cluster.kill_for_a_while, index, told=told, seconds=returns + 3.0))
    cluster.run(seconds=600, until=lambda: cluster.finished)
    sound(cluster, alone=bool(kills))

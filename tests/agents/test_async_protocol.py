"""`sync = "async"`: versions instead of rounds, and nobody waits. Real cores in virtual time; weights by themselves."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.effects import StartWork
from agents.reducer import asynchronous
from agents.reducer.state import Habit, ReducerState
from agents.reducer.works import Part
from agents.trainer import Trainer, TrainerSettings, TrainerState
from agents.trainer.overlapping import FURTHER, MOST
from agents.trainer.works import Drop
from schemas.ids import NodeId
from schemas.shards import AverageOrdered
from schemas.training import (
    Average,
    Contribution,
    ContributionOffered,
    RoundApplied,
    RoundClosed,
    StepTimed,
    TrainerReady,
    TrainingProgress,
)
from tests.agents.job_cluster import JOB, JobCluster, Node


def job(rounds: int, seed: int = 0, transfer: float = 0.2, reducers: int = 1, **seconds: float) -> JobCluster:
    fleet = [Node(name, step_seconds=each, transfer_seconds=transfer) for name, each in seconds.items()]
    return JobCluster(fleet, rounds=rounds, seed=seed, sync="async", parameters=100_000, reducers=reducers)


def sound(cluster: JobCluster) -> None:
    """Every version closed once, every difference counted at most once, all anchors the same, nobody too far ahead."""
    assert cluster.finished
    assert sorted(cluster.closed) == list(range(1, cluster.rounds + 1))
    counted = [(c.node, c.round) for closed in cluster.closed.values() for c in closed.contributions]
    assert len(counted) == len(set(counted))
    digests = {(event.version, event.digest) for event in cluster.said(RoundApplied)}
    assert len({version for version, _ in digests}) == len(digests)
    for closed in cluster.closed.values():
        assert closed.contributions
        assert 0.0 < closed.extent <= 1.0
        assert sum(c.weight for c in closed.contributions) == pytest.approx(1.0)
        assert all(0 <= c.late == closed.round - c.round for c in closed.contributions)
        assert not closed.missing
        for order in cluster.said(AverageOrdered):
            assert (order.round, order.term) != (closed.round, closed.term) or order.extent == closed.extent
    for node in cluster.nodes.values():
        assert all(round_ <= version + 2 for round_, version in node.begun)


def steps_of(cluster: JobCluster, name: str) -> int:
    return sum(timed.steps for timed in cluster.said(StepTimed) if timed.node == name)


# Nobody waits.


@pytest.mark.parametrize("reducers", [1, 4])
def test_a_slow_node_costs_the_others_nothing_and_its_work_counts(reducers: int) -> None:
    cluster = job(24, reducers=reducers, a=0.1, b=0.1, c=0.1, d=0.5)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    seconds = cluster.closed[24].at - cluster.closed[1].at
    for name in ("a", "b", "c"):
        assert steps_of(cluster, name) * 0.1 > 0.97 * seconds
    assert [c.samples for closed in cluster.closed.values() for c in closed.contributions if c.node == "d"][1:]


def test_nobody_stands_still_while_the_reducer_is_dead_and_the_work_counts_later() -> None:
    fleet = [Node(name, step_seconds=0.1, transfer_seconds=0.2) for name in "abc"]
    cluster = JobCluster(fleet, rounds=30, sync="async", hang_seconds=6.0)
    cluster.run(until=lambda: len(cluster.closed) == 5)
    cluster.kill("a", told=False)
    died, before = cluster.now, steps_of(cluster, "b")
    cluster.run(until=lambda: len(cluster.closed) == 7)
    seconds = cluster.now - died
    assert seconds > 3.0, "nobody said that it is dead: the next takes over by itself"
    assert steps_of(cluster, "b") - before > 0.8 * seconds / 0.1
    largest = max(offer.steps for offer in cluster.said(ContributionOffered))
    assert largest > 10
    assert largest <= 10 * MOST + 10 // FURTHER
    signs = [sign.at for sign in cluster.said(TrainingProgress) if sign.node == "b"]
    assert max(after - before for before, after in pairwise(signs)) < 3.0, "its node takes silence for a hang"
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)


@pytest.mark.parametrize("reducers", [1, 4])
def test_a_version_closes_with_one_contribution_where_no_others_come(reducers: int) -> None:
    cluster = job(12, reducers=reducers, a=0.1, b=60.0, c=60.0)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    later = [closed for number, closed in cluster.closed.items() if number > 4]
    assert all({c.node for c in closed.contributions} == {"a"} for closed in later)
    assert cluster.closed[12].extent > 0.9, "who never brought anything is no part of the fleet's work"


@pytest.mark.parametrize("reducers", [1, 4])
def test_a_node_alone_makes_all_versions(reducers: int) -> None:
    cluster = job(5, reducers=reducers, a=0.1)
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert {closed.extent for closed in cluster.closed.values()} == {1.0}


def test_a_refused_difference_is_made_anew_from_the_anchor() -> None:
    cluster = job(12, a=0.1, b=0.1)
    cluster.run(until=lambda: len(cluster.closed) == 4)
    cluster.nodes["b"].garbage = True
    cluster.run(until=lambda: len(cluster.closed) == 6)
    cluster.nodes["b"].garbage = False
    cluster.run(until=lambda: cluster.finished)
    sound(cluster)
    assert "b" in {c.node for number in range(8, 13) for c in cluster.closed[number].contributions}


def test_a_closing_tells_the_weights_that_its_average_was_made_with() -> None:
    cluster = job(40, a=0.1, b=0.1, c=0.1, d=0.5)
    state = cluster.nodes["a"].cores["reducer"].state

    def rare_and_others() -> bool:
        return len(state.reducing) > 1 and any(key.startswith("d/") for key in state.reducing)

    cluster.run(until=lambda: len(cluster.closed) > 10 and rare_and_others())
    made, _ = asynchronous.weighed(state, [state.offers[key].message for key in state.reducing])
    again = TrainerReady(job=JOB, node="d", version=state.closed, digest="d", parameters=9, device="cpu")
    cluster.publish(again, "trainer/d")  # its interval begins anew
    version = state.round
    cluster.run(until=lambda: version in cluster.closed)
    assert {c.node: c.weight for c in cluster.closed[version].contributions} == {p.node: p.weight for p in made}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    speeds=st.lists(st.sampled_from([0.05, 0.1, 0.5, 2.0]), min_size=2, max_size=4),
    transfers=st.lists(st.sampled_from([0.05, 0.4, 3.0]), min_size=4, max_size=4),
    killed=st.sampled_from(["", "a", "b"]),
    told=st.booleans(),
    at=st.integers(1, 8),
    seed=st.integers(0, 99),
    reducers=st.sampled_from([1, 4]),
)
def test_whatever_dies_and_however_slow(
    speeds: list[float], transfers: list[float], killed: str, told: bool, at: int, seed: int, reducers: int
) -> None:
    fleet = [Node(name, step, transfer) for name, step, transfer in zip("abcd", speeds, transfers, strict=False)]
    cluster = JobCluster(fleet, rounds=12, seed=seed, sync="async", parameters=100_000, reducers=reducers)
    cluster.run(until=lambda: len(cluster.closed) >= at)
    if killed:
        cluster.kill(killed, told=told)
        cluster.run(seconds=5.0)
        cluster.boot(cluster.nodes[killed])
    cluster.run(seconds=900.0, until=lambda: cluster.finished)
    sound(cluster)


def closing(number: int, *nodes: NodeId) -> RoundClosed:
    listed = tuple(Contribution(node=n, round=number, late=0, samples=8, weight=1 / len(nodes), loss=1.0) for n in nodes)
    average = Average(key=f"{number}", size=1, digest=f"{number}", holders=("b", "c"))
    return RoundClosed(
        job="j", round=number, term=0, reducer="b", next_reducer="b", contributions=listed, missing=(), average=average,
        samples=8, loss=1.0, seconds=1.0, on_time=True, reason="",
    )  # fmt: skip


def test_what_a_closing_counted_is_forgotten_even_if_that_version_comes_in_a_snapshot() -> None:
    state = TrainerState(job="j", node="a", version=1, busy="apply")
    state.offers[2] = ContributionOffered(
        job="j", node="a", round=2, base_digest="", samples=8, steps=1, loss=1.0, compute_seconds=1.0, encoding="int8",
        key="2", size=1, digest="d",
    )  # fmt: skip
    core = Trainer(TrainerSettings(), random.Random(0), job="j", node="a", state=state)
    dropped: list[Any] = []
    for number in range(2, 12):
        effects = core.handle(closing(number, "a" if number == 2 else "b"), 0.0)
        core.check()
        dropped += [effect.work for effect in effects if isinstance(effect, StartWork) and isinstance(effect.work, Drop)]
    assert dropped == [Drop(tensors=("delta/2",))]
    assert not core.state.offers


# How far the anchor goes.


def versions(nodes: dict[NodeId, tuple[int, int]], count: int) -> list[tuple[tuple[Part, ...], float]]:
    """Nodes that contribute so many samples every so many versions, through the reducer's own book-keeping."""
    state = ReducerState(job="j", node="a", sync="async")
    for node in nodes:
        asynchronous.arrive(state, node)
    made = []
    for number in range(1, count + 1):
        due = {node: samples for node, (every, samples) in nodes.items() if number % every == 0}
        if not due:
            continue
        parts = [Part(node=node, round=number, weight=1 / len(due)) for node in due]
        work = {(node, number): float(samples) for node, samples in due.items()}
        made.append(asynchronous.by_rate(parts, work, state.habits, set(nodes), number))
        listed = closing(number, *due)
        asynchronous.note(state, listed)
    return made


def test_with_everybody_in_each_version_it_is_a_round() -> None:
    for parts, extent in versions({"a": (1, 8), "b": (1, 8)}, 5):
        assert extent == 1.0
        assert [part.weight for part in parts] == [0.5, 0.5]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_each_node_moves_the_anchor_by_its_part_of_the_work_however_rarely_it_comes(every: list[int]) -> None:
    names = [f"n{place}" for place in range(len(every))]
    made = versions({name: (each, 8) for name, each in zip(names, every, strict=True)}, 300)
    of_all = sum(1 / each for each in every)
    for name, each in zip(names, every, strict=True):
        pulls = [extent * part.weight for parts, extent in made[len(made) // 3 :] for part in parts if part.node == name]
        assert sum(pulls) / len(pulls) == pytest.approx(1 / each / of_all, rel=0.05)


WORK = st.one_of(st.just(0.0), st.floats(0.01, 1e6))  # none, or a sample that is 20 versions late and more
GAPS = st.one_of(st.just(0.0), st.floats(0.1, 100.0))  # 0: no contribution yet


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 20), GAPS, WORK)),
    st.dictionaries(st.tuples(st.sampled_from("abcdef"), st.integers(1, 21)), WORK, min_size=1, max_size=9),
)
def test_weights_are_parts_of_one_whatever_is_known(
    habits: dict[NodeId, tuple[int, float, float]], work: dict[tuple[NodeId, int], float]
) -> None:
    known = {node: Habit(round=round_, gap=gap, work=much) for node, (round_, gap, much) in habits.items()}
    parts = [Part(node=node, round=round_, weight=1 / len(work)) for node, round_ in work]
    made, extent = asynchronous.by_rate(parts, work, known, set("abcdef"), 21)
    assert sum(part.weight for part in made) == pytest.approx(1.0)
    assert all(part.weight >= 0.0 for part in made)
    assert 0.0 < extent <= 1.0


def test_half_of_those_who_contribute_regularly_close_a_version() -> None:
    assert [asynchronous.buffer(regular) for regular in (0, 1, 2, 3, 4, 5, 10)] == [1, 1, 1, 2, 2, 3, 5]

"""`sync = "step"`: a round is one step of one machine. Real trainer and reducer cores in virtual time."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.base import Effect, StartWork, StopWork
from agents.inputs import Woken
from agents.reducer import staleness
from agents.reducer.state import ReducerState
from agents.trainer import Trainer, TrainerSettings, works
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import (
    Assignment,
    Average,
    ContributionOffered,
    ContributionRefused,
    Roster,
    RoundApplied,
    RoundClosed,
    Share,
)
from tests.agents.job_cluster import JobCluster, Node


def job(rounds: int, seed: int = 0, **seconds: float) -> JobCluster:
    fleet = [Node(name, step_seconds=each, transfer_seconds=0.05) for name, each in seconds.items()]
    return JobCluster(fleet, rounds=rounds, local_steps=1, seed=seed, sync="step")


def of_the_present_version_only(cluster: JobCluster) -> None:
    assert sorted(cluster.closed) == list(range(1, cluster.rounds + 1))
    for closed in cluster.closed.values():
        assert all((c.round, c.late) == (closed.round, 0) for c in closed.contributions)
        assert closed.aggregation == "mean"
        samples = sum(c.samples for c in closed.contributions)
        assert [c.weight for c in closed.contributions] == pytest.approx(
            [c.samples / samples for c in closed.contributions]
        )
    digests = {(event.version, event.digest) for event in cluster.said(RoundApplied)}
    assert len({version for version, _ in digests}) == len(digests)


def test_gradients_count_by_their_samples() -> None:
    cluster = job(4, a=0.1, b=0.1)
    first = cluster.present[2]
    assert isinstance(first, Assignment)
    shares = {"a": first.shares["a"], "b": msgspec.structs.replace(first.shares["b"], microbatch=16)}
    cluster.publish(msgspec.structs.replace(first, version=2, shares=shares), "batch_controller")
    cluster.run(until=lambda: cluster.finished)
    of_the_present_version_only(cluster)
    assert [c.weight for c in cluster.closed[4].contributions] == [0.2, 0.8]


def test_a_late_gradient_is_dropped_and_the_closing_says_so() -> None:
    cluster = job(12, a=0.1, b=0.1, c=0.1, d=6.0)
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    of_the_present_version_only(cluster)
    without = [closed for closed in cluster.closed.values() if "d" in closed.missing]
    assert without
    assert all("d: a gradient that comes later is dropped" in closed.reason for closed in without)


def test_a_gradient_that_arrives_after_its_round_is_refused_with_the_reason() -> None:
    cluster = job(40, a=0.1, b=0.1, c=0.1, d=0.1)
    cluster.nodes["d"].transfer_seconds = 5.0
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    of_the_present_version_only(cluster)
    refusals = [refusal for refusal in cluster.said(ContributionRefused) if refusal.contributor == "d"]
    assert refusals
    assert all(refusal.late and "late, and of an older version" in refusal.reason for refusal in refusals)


def test_a_node_that_is_always_late_is_waited_for_ever_less_often() -> None:
    cluster = job(40, a=0.1, b=0.1, c=0.1, d=6.0)
    cluster.run(seconds=300, until=lambda: cluster.finished)
    waited = [closed.round for closed in cluster.closed.values() if "d" in closed.missing]
    assert waited == [1, 2, 4, 8, 16, 32]


def test_a_node_that_was_late_once_is_back_with_its_first_gradient_in_time() -> None:
    cluster = job(12, a=0.5, b=0.5, c=0.5)
    cluster.nodes["c"].step_seconds = 6.0
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.nodes["c"].step_seconds = 0.5
    cluster.run(until=lambda: cluster.finished)
    of_the_present_version_only(cluster)
    assert cluster.closed[1].missing == ("c",)
    assert {c.node for c in cluster.closed[12].contributions} == {"a", "b", "c"}
    assert cluster.nodes["a"].cores["reducer"].state.absences == {}


def test_a_round_never_waits_for_fewer_than_its_quorum() -> None:
    state = ReducerState(job="j", node="a", sync="step", absences={"b": 1, "c": 3, "d": 9})
    everybody = ("a", "b", "c", "d")
    assert staleness.waited_for(state, everybody, 1) == ("a",)
    assert staleness.waited_for(state, everybody, 2) == everybody
    state.closed = 7
    assert staleness.waited_for(state, everybody, 2) == ("a", "b", "c")


def an_offer(round_: int, base: str) -> ContributionOffered:
    return ContributionOffered(
        job="j",
        node="b",
        round=round_,
        base_digest=base,
        samples=4,
        steps=1,
        loss=1.0,
        compute_seconds=0.1,
        encoding="float32",
        key=str(round_),
        size=100,
        digest="d",
    )


def test_a_gradient_taken_elsewhere_does_not_count() -> None:
    state = ReducerState(job="j", node="a", sync="step", closed=4, digests={4: "x"})
    assert staleness.objection(state, an_offer(5, "x")) == ""
    assert "not taken at version 4" in staleness.objection(state, an_offer(5, "y"))
    assert "2 rounds late" in staleness.objection(state, an_offer(3, "x"))
    state.sync = "round"
    assert staleness.objection(state, an_offer(3, "y")) == ""


def a_trainer() -> Trainer:
    """At version 1 of a job with gradients, computing the second."""
    trainer = Trainer(TrainerSettings(), random.Random(1), job="j", node="a")
    request = JobRequest(kind="train", workload="m:w", rounds=9, sync="step")
    state = JobState(
        id="desk:1",
        job="j",
        version=1,
        state=JobPhase.RUNNING,
        reason="r",
        round=0,
        rounds=9,
        request=request,
        submitted_at=1.0,
    )
    shares = {"a": Share(microbatch=4, local_steps=1, encoding="float32")}
    assignment = Assignment(
        id="bc:1",
        job="j",
        version=1,
        roster_version=1,
        shares=shares,
        average_encoding="float32",
        round_seconds=1.0,
        deadline_seconds=4.0,
        strategy="hybrid",
        reason="r",
    )
    tell(trainer, Woken(incarnation=1, resumed=False, at=0.0))
    tell(trainer, works.ModelBuilt(digest="0", parameters=10, device="cpu"))
    tell(trainer, state)
    tell(trainer, Roster(id="sel:1", job="j", version=1, nodes=("a", "b"), reducers=("b",), quorum=1, reason="r"))
    tell(trainer, assignment)
    tell(trainer, closed(1))
    effects = tell(trainer, works.Applied(version=1, digest="1", seconds=0.1))
    assert [work.round for work in asked(effects, works.LocalRound)] == [2]
    return trainer


def tell(trainer: Trainer, event: Any) -> list[Effect]:
    effects = trainer.handle(event, 1000.0)
    trainer.check()
    return effects


def asked(effects: list[Effect], kind: type[Any]) -> list[Any]:
    return [effect.work for effect in effects if isinstance(effect, StartWork) and isinstance(effect.work, kind)]


def closed(round_: int) -> RoundClosed:
    return RoundClosed(
        id=f"reducer/b:1:{round_}",
        job="j",
        round=round_,
        term=0,
        reducer="b",
        next_reducer="b",
        contributions=(),
        missing=("a",),
        average=Average(key=str(round_), size=1, digest="d", holders=("b",)),
        samples=1,
        loss=1.0,
        seconds=1.0,
        on_time=False,
        reason="r",
    )


def done(round_: int) -> works.LocalRoundDone:
    return works.LocalRoundDone(
        round=round_,
        base_digest="1",
        samples=4,
        steps=1,
        microbatch=4,
        loss=1.0,
        seconds=0.1,
        encoding="float32",
        key=str(round_),
        size=100,
        digest="d",
    )


def test_a_gradient_whose_round_closed_meanwhile_is_not_even_sent() -> None:
    trainer = a_trainer()
    tell(trainer, closed(2))
    effects = tell(trainer, done(2))
    assert not asked(effects, works.Stream)
    assert [work.tensors for work in asked(effects, works.Drop)] == [("delta/2",)]
    assert not trainer.state.offers


def test_a_gradient_on_its_way_is_given_up_when_its_round_closes() -> None:
    trainer = a_trainer()
    assert asked(tell(trainer, done(2)), works.Stream)
    tell(trainer, closed(2))
    effects = tell(trainer, works.Applied(version=2, digest="2", seconds=0.1))
    assert [effect.key for effect in effects if isinstance(effect, StopWork)] == ["stream/2"]
    assert [work.tensors for work in asked(effects, works.Drop)] == [("delta/2",)]
    assert [work.round for work in asked(effects, works.LocalRound)] == [3]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    speeds=st.lists(st.floats(0.05, 6.0), min_size=2, max_size=5),
    kills=st.lists(st.tuples(st.floats(2.0, 30.0), st.integers(0, 4), st.booleans()), max_size=3),
)
def test_whatever_dies_and_returns_only_gradients_of_the_present_version_count(
    seed: int, speeds: list[float], kills: list[tuple[float, int, bool]]
) -> None:
    cluster = job(8, seed, **dict(zip("abcde", speeds, strict=False)))
    fleet = list(cluster.nodes.values())

    def kill_and_return(index: int, told: bool) -> None:
        node = fleet[index % len(fleet)]
        if node.alive:
            cluster.kill(node.name, told=told)
            cluster.later(8.0, lambda: cluster.boot(node))

    for at, index, told in kills:
        cluster.later(at, lambda i=index, t=told: kill_and_return(i, t))
    cluster.run(seconds=900, until=lambda: cluster.finished)
    assert cluster.finished, "the job stands still"
    of_the_present_version_only(cluster)

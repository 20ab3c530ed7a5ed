"""What a round does about contributions that can't be counted, and about too few for the job's method."""

import random
from typing import Any

import msgspec
import pytest

from agents.base import Publish, StartWork
from agents.reducer import Reducer, ReducerSettings, works
from schemas.aggregation import Aggregation
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import (
    Average,
    AverageHeld,
    ContributionOffered,
    ContributionRefused,
    Roster,
    RoundApplied,
    RoundClosed,
    TrainerReady,
)
from schemas.wire import seal
from tests.agents.job_cluster import JobCluster, Node

NOW = 1000.0
NODES = ("a", "b", "c")


class Bench:
    """The core of the reducer `a` with round 1 open, by direct calls."""

    def __init__(self, aggregation: Aggregation = "clip") -> None:
        self.core = Reducer(ReducerSettings(), random.Random(1), job="j", node="a")
        self.said: list[Any] = []
        self.asked: list[Any] = []
        request = JobRequest(kind="train", workload="m:w", aggregation=aggregation)
        self.give(
            JobState(
                job="j", version=1, state=JobPhase.RUNNING, reason="", round=0, rounds=9, request=request, submitted_at=0
            )
        )
        self.give(Roster(job="j", version=1, nodes=NODES, reducers=("a",), quorum=2, reason=""))
        for node in NODES:
            self.give(TrainerReady(job="j", node=node, version=0, digest="d", parameters=9, device="cpu"))

    def give(self, event: msgspec.Struct) -> None:
        effects = self.core.handle(event, NOW)
        self.core.check()
        self.said += [effect.message for effect in effects if isinstance(effect, Publish)]
        self.asked += [effect.work for effect in effects if isinstance(effect, StartWork)]

    def offer(self, node: str, round_: int = 1, *, source: str | None = None, **other: Any) -> None:
        fields = {"samples": 80, "steps": 10, "digest": f"{node}-{round_}", "size": 100} | other
        offer = ContributionOffered(
            job="j", node=node, round=round_, base_digest="d", loss=1.0, compute_seconds=1.0, encoding="float32",
            key=str(round_), **fields,
        )  # fmt: skip
        self.give(seal(offer, id="x:1:1", cause="", at=NOW, source=source or f"trainer/j/{node}"))

    def collected(self, node: str, round_: int = 1, *, faint: bool = False) -> None:
        self.give(works.Collected(contributor=node, round=round_, size=100, seconds=0.1, faint=faint))

    def close(self, round_: int, treated: tuple[works.Treated, ...] = ()) -> RoundClosed:
        """Average what is here, have it held, and let everybody apply it."""
        average = Average(key="k", size=9, digest="avg", holders=("a",))
        self.give(works.Reduced(round=round_, term=self.core.state.term, average=average, treated=treated))
        self.give(AverageHeld(job="j", node="b", round=round_, digest="avg"))
        closed = next(m for m in reversed(self.said) if isinstance(m, RoundClosed))
        self.give(closed)
        for node in NODES:
            self.give(RoundApplied(job="j", node=node, version=round_, digest="d", seconds=0.1))
        return closed

    @property
    def refused(self) -> list[tuple[str, int, str]]:
        return [(m.contributor, m.round, m.reason) for m in self.said if isinstance(m, ContributionRefused)]

    @property
    def reductions(self) -> list[works.Reduce]:
        return [work for work in self.asked if isinstance(work, works.Reduce)]


def everybody(bench: Bench, round_: int) -> None:
    for node in NODES:
        bench.offer(node, round_)
        bench.collected(node, round_)


def test_a_node_that_sends_garbage_is_named_and_not_waited_for() -> None:
    fleet = [Node(name) for name in "abcd"]
    fleet[3].garbage = True
    cluster = JobCluster(fleet, rounds=4)
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    assert {(event.contributor, event.reason) for event in cluster.said(ContributionRefused)} == {("d", "not finite")}
    for closed in cluster.closed.values():
        assert {c.node for c in closed.contributions} == {"a", "b", "c"}
        assert closed.on_time, "nobody waits for what was refused"
        assert "refused from d" in closed.reason
        assert closed.seconds < 4.0


def test_a_node_that_sends_garbage_once_contributes_again() -> None:
    fleet = [Node(name) for name in "abc"]
    fleet[2].garbage = True
    cluster = JobCluster(fleet, rounds=6)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    fleet[2].garbage = False
    cluster.run(until=lambda: cluster.finished)
    assert {c.node for c in cluster.closed[6].contributions} == {"a", "b", "c"}


def test_a_lone_node_whose_first_try_is_refused_goes_on() -> None:
    """It makes another difference for the same round, and that one counts."""
    (node,) = fleet = [Node("a", garbage=True)]
    cluster = JobCluster(fleet, rounds=2)
    cluster.run(until=lambda: bool(cluster.said(ContributionRefused)))
    node.garbage = False
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished, "the job stands still"


def test_refusals_dont_close_a_round_below_its_quorum() -> None:
    bench = Bench()
    bench.offer("a")
    bench.collected("a")
    for node in ("b", "c"):
        bench.offer(node)
        bench.give(works.CollectFailed(contributor=node, round=1, reason="not finite", unsound=True))
    assert not bench.reductions
    bench.offer("b", digest="another")
    bench.collected("b")
    assert [part.node for part in bench.reductions[0].parts] == ["a", "b"]


def test_an_offer_in_anothers_name_is_refused_and_its_speaker_named() -> None:
    bench = Bench()
    bench.offer("b", source="trainer/j/c", digest="forged")
    assert bench.refused == [("c", 1, "c offers it in the name of b")]
    everybody(bench, 1)
    assert [part.node for part in bench.reductions[0].parts] == ["a", "b", "c"], "the victim's own counts"


def test_a_second_difference_for_a_counted_round_is_refused_and_a_crossing_offer_is_not() -> None:
    bench = Bench()
    everybody(bench, 1)
    bench.close(1)
    bench.offer("b", 1)
    assert bench.refused == [], "its offer was under way when the round closed"
    bench.offer("b", 1, digest="other bytes")
    assert bench.refused == [("b", 1, "another difference of b was counted for round 1 already")]


def test_a_counted_difference_under_another_rounds_name_is_refused() -> None:
    bench = Bench()
    everybody(bench, 1)
    bench.close(1)
    bench.offer("c", 2, digest="c-1")
    bench.collected("c", 2)
    assert bench.refused == [("c", 2, "it is the difference for round 1, sent again")]
    assert works.Release(parts=(("c", 2),)) in bench.asked


def test_the_same_bytes_for_two_open_rounds_count_once() -> None:
    bench = Bench()
    everybody(bench, 1)
    bench.close(1)
    bench.give(TrainerReady(job="j", node="d", version=1, digest="d", parameters=9, device="cpu"))
    bench.offer("d", 1, digest="same")
    bench.collected("d", 1)
    bench.offer("d", 2, digest="same")
    bench.collected("d", 2)
    assert [(who, round_) for who, round_, _ in bench.refused] == [("d", 2)]


def test_faint_differences_may_be_alike() -> None:
    """A learning rate of 0 in a warm-up, or a model that has converged: nobody lies."""
    bench = Bench()
    everybody(bench, 1)
    bench.close(1)
    bench.offer("c", 2, digest="c-1")
    bench.collected("c", 2, faint=True)
    assert bench.refused == []


def test_bytes_that_were_refused_are_not_fetched_again() -> None:
    bench = Bench()
    bench.offer("b")
    bench.give(works.CollectFailed(contributor="b", round=1, reason="not finite", unsound=True))
    asked = len(bench.asked)
    bench.offer("b")
    assert bench.refused[1:] == [("b", 1, "these bytes were refused already")]
    assert len(bench.asked) == asked


def test_impossible_figures_are_refused() -> None:
    bench = Bench()
    bench.offer("b", samples=-80)
    assert bench.refused == [("b", 1, "-80 samples in 10 steps are impossible")]


def test_a_bad_offer_doesnt_take_a_sound_one_of_its_round_along() -> None:
    bench = Bench()
    everybody(bench, 1)
    bench.offer("b", samples=-1, digest="other bytes")
    bench.offer("b", samples=-1)
    assert [who for who, _, _ in bench.refused] == ["b", "b"]
    assert [c.node for c in bench.close(1).contributions] == ["a", "b", "c"]


@pytest.mark.parametrize(("asked", "made"), [("median", "median"), ("krum", "clip"), ("mean", "mean")])
def test_a_round_of_too_few_nodes_is_clipped_instead_and_says_so(asked: Aggregation, made: str) -> None:
    bench = Bench(asked)
    everybody(bench, 1)
    assert bench.reductions[0].aggregation == made
    closed = bench.close(1)
    assert closed.aggregation == made
    assert ("clip instead of krum, which needs 5 nodes, not 3" in closed.reason) == (asked == "krum")


def test_a_closed_round_tells_what_was_clipped_or_left_out() -> None:
    bench = Bench()
    everybody(bench, 1)
    remark = "clipped to 0.1 of its length: its norm is 50"
    closed = bench.close(
        1,
        (
            works.Treated(node="a", round=1, weight=0.5, norm=1.0),
            works.Treated(node="b", round=1, weight=0.5, norm=50.0, scale=0.1, remark=remark),
            works.Treated(node="c", round=1, weight=0.0, norm=2.0, scale=0.0),
        ),
    )
    assert [(c.node, c.weight, c.norm, c.scale) for c in closed.contributions] == [
        ("a", 0.5, 1.0, 1.0),
        ("b", 0.5, 50.0, 0.1),
        ("c", 0.0, 2.0, 0.0),
    ]
    assert f"b: {remark}" in closed.reason
    assert "clip leaves out c" in closed.reason

"""Whose gradient stands apart when all compute the same one."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.base import Publish
from agents.inputs import Result
from agents.reducer import Reducer, ReducerSettings
from agents.reducer.arithmetic import COARSE, TOLERANCES, deviation
from agents.trainer import works
from schemas.training import Roster, TrainerReady
from schemas.verification import ArithmeticDoubted, Fingerprint, GradientVerified
from tests.agents.job_cluster import JobCluster, Node

EXACT = TOLERANCES["float32"]
NODES = ("a", "b", "c", "d")


def report(node: str, *norms: float, version: int = 20, **other: Any) -> GradientVerified:
    """What a node got; the signed sums are half the norms."""
    fields: dict[str, Any] = {"batch": "b" * 64, "precision": "float32", "loss": 2.5, "seconds": 0.1} | other
    gradient = Fingerprint(norms=norms, signed=tuple(norm / 2 for norm in norms), **fields)
    return GradientVerified(job="j", node=node, version=version, gradient=gradient)


def reducer(active: str = "a") -> Reducer:
    """The core on node `a` of a job where `active` reduces."""
    core = Reducer(ReducerSettings(), random.Random(1), job="j", node="a")
    core.handle(Roster(job="j", version=1, nodes=NODES, reducers=(active,), quorum=2, reason=""), 0.0)
    for node in NODES:
        core.handle(TrainerReady(job="j", node=node, version=0, digest="d", parameters=9, device="cpu"), 0.0)
    return core


def doubts(core: Reducer, *reports: GradientVerified) -> list[ArithmeticDoubted]:
    said = [effect.message for each in reports for effect in core.handle(each, 0.0) if isinstance(effect, Publish)]
    core.check()
    return [message for message in said if isinstance(message, ArithmeticDoubted)]


def test_the_one_that_stands_apart_is_named_once_whatever_the_order() -> None:
    honest = [report(node, 1.0, 2.0, 3.0) for node in "abc"]
    for place in range(4):
        reports = [*honest[:place], report("d", 1.0, 2.2, 3.0), *honest[place:]]
        (doubt,) = doubts(reducer(), *reports, *reports)
        assert (doubt.suspect, doubt.version, doubt.tolerance) == ("d", 20, EXACT)
        assert doubt.deviation == pytest.approx(0.1)
        assert "version 20 deviates by 0.1" in doubt.reason


def test_rounding_is_no_fault_and_coarse_arithmetic_has_more_of_it() -> None:
    assert not doubts(reducer(), *(report(node, 1.0 + i * 1e-5, 2.0) for i, node in enumerate("abcd")))
    coarse = [report(node, 1.0, 2.0, precision="bfloat16") for node in "abc"]
    assert not doubts(reducer(), *coarse, report("d", 1.02, 2.0))
    (doubt,) = doubts(reducer(), *coarse, report("d", 1.2, 2.0))
    assert doubt.tolerance == COARSE


def test_two_nodes_can_accuse_nobody() -> None:
    assert not doubts(reducer(), report("a", 1.0), report("b", 9.0))


def test_a_gradient_that_is_not_finite_is_named_where_the_others_are() -> None:
    broken = report("d", loss=None)
    (doubt,) = doubts(reducer(), report("a", 1.0), report("b", 1.0), broken)
    assert (doubt.suspect, doubt.deviation) == ("d", None)
    assert "is not finite" in doubt.reason
    diverged = [report(node, loss=None) for node in "bcd"]
    assert not doubts(reducer(), report("a", 1.0), *diverged), "the model itself is no longer finite"


def test_only_the_active_reducer_speaks_and_only_of_the_same_samples() -> None:
    apart = [report("a", 1.0), report("b", 1.0), report("c", 1.0), report("d", 9.0)]
    assert not doubts(reducer("b"), *apart)
    assert not doubts(reducer(), *apart[:2], report("d", 9.0, batch="c" * 64), report("c", 1.0))
    assert not doubts(reducer(), *apart[:2], report("d", 9.0, version=40), report("c", 1.0))
    assert not doubts(reducer(), *apart[:2], report("stranger", 9.0))


def test_another_version_is_judged_anew() -> None:
    core = reducer()
    first = doubts(core, *(report(node, 1.0) for node in "abc"), report("d", 9.0))
    second = doubts(core, *(report(node, 1.0, version=40) for node in "abc"), report("d", 9.0, version=40))
    assert [doubt.version for doubt in first + second] == [20, 40]


def test_a_block_of_nothing_but_rounding_accuses_nobody() -> None:
    same = [report(node, 1.0, 1e-9) for node in "abc"]
    assert deviation(report("d", 1.0, 3e-9), same) < EXACT
    assert deviation(report("d", 1.0, 0.5), same) > EXACT
    assert deviation(report("d", 0.0), [report(node, 0.0) for node in "abc"]) == 0.0


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.floats(1e-30, 1e30))
def test_the_deviation_is_a_part_of_the_gradients_size(norms: list[float], scale: float) -> None:
    same = [report(node, *(norm * scale for norm in norms)) for node in "abc"]
    assert deviation(report("d", *(norm * scale for norm in norms)), same) == 0.0
    twice = deviation(report("d", *(2 * norm * scale for norm in norms)), same)
    assert math.isclose(twice, 1.0, rel_tol=1e-6)


def test_all_compute_it_now_and_then_and_hear_who_is_doubted() -> None:
    asked: list[tuple[str, int]] = []

    class Watched(JobCluster):
        def outcome(self, node: Node, work: Any) -> tuple[float, Result | None]:
            if isinstance(work, works.VerifyGradient):
                asked.append((node.name, work.version))
                got = report(node.name, 1.0 if node.name != "c" else 1.5)
                computed = works.GradientComputed(version=work.version, gradient=got.gradient)
                return 0.1, computed
            return super().outcome(node, work)

    cluster = Watched([Node(name) for name in "abc"], rounds=7, verify_every=3)
    cluster.run(until=lambda: cluster.finished)
    assert sorted(asked) == [(node, version) for node in "abc" for version in (3, 6)]
    assert [(doubt.suspect, doubt.version) for doubt in cluster.said(ArithmeticDoubted)] == [("c", 3), ("c", 6)]
    asked.clear()
    cluster = Watched([Node(name) for name in "abc"], rounds=4, verify_every=0)
    cluster.run(until=lambda: cluster.finished)
    assert not asked

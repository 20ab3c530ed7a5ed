"""A node that slows its jobs instead of pausing them: what it says, when it pauses after all, and what processes hear."""

import pytest
from test_node_owner import NOW, Owned

from agents.base import StartWork
from agents.inputs import Woken
from agents.node import PaceJobs
from schemas.measuring import MeasureNode, NodeMeasured
from schemas.nodes import NodeYielding, PauseNode


def paces(node: Owned) -> list[float]:
    return [e.work.share for e in node.effects if isinstance(e, StartWork) and isinstance(e.work, PaceJobs)]


def words(node: Owned) -> list[tuple[bool, float]]:
    return [(word.yielding, word.share) for word in node.said(NodeYielding)]


def test_it_slows_its_jobs_at_once_and_lets_them_go_on() -> None:
    node = Owned(yield_share=0.25)
    node.cpu(*[80] * 6)
    assert words(node) == [(True, 0.25)]
    assert paces(node) == [0.25]
    assert node.said(NodeYielding)[0].reason.endswith("(limit 50 %); jobs go on at 25 % of their speed")
    assert node.stops == [], "nothing is started anew for it"
    node.cpu(*[10] * 21)
    assert words(node) == [(True, 0.25), (False, 1.0)]
    assert paces(node) == [0.25, 1.0]
    assert node.starts == 1


def test_by_default_it_pauses() -> None:
    node = Owned()
    node.cpu(*[80] * 6)
    assert (words(node), paces(node), len(node.stops)) == ([(True, 0.0)], [], 1)


def test_jobs_that_come_meanwhile_are_slow_too() -> None:
    node = Owned(yield_share=0.25)
    node.roster("other")
    node.end_process()
    node.cpu(*[80] * 6)
    node.roster("me", "other")
    assert node.starts == 2


def test_a_persons_pause_ends_processes_whatever_the_share() -> None:
    node = Owned(yield_share=0.25)
    node.cpu(*[80] * 6)
    node.tell(PauseNode(node="me", pause=True, reason="a game"))
    assert words(node)[-1] == (True, 0.0)
    assert len(node.stops) == 1
    node.roster("other")
    node.end_process()
    node.tell(PauseNode(node="me", pause=False))
    assert words(node)[-1] == (True, 0.25), "the owner's programs still need it"
    assert paces(node) == [0.25], "which processes know"
    node.roster("me", "other")
    assert node.starts == 2


@pytest.mark.parametrize("sample", [{"temperature_c": 95.0}, {"owner_cpu_percent": 0.0, "temperature_c": 90.0}])
def test_heat_that_slowing_does_not_cure_pauses_after_a_minute(sample: dict[str, float]) -> None:
    node = Owned(yield_share=0.5)
    node.seconds(6, **sample)
    assert words(node) == [(True, 0.5)]
    node.seconds(59, **sample)
    assert words(node) == [(True, 0.5)]
    node.seconds(1, **sample)
    assert words(node) == [(True, 0.5), (True, 0.0)]
    assert len(node.stops) == 1


def test_heat_that_slowing_cures_goes_on_slowly_until_it_is_cool() -> None:
    node = Owned(yield_share=0.5)
    node.seconds(6, temperature_c=90.0)
    node.seconds(30, temperature_c=82.0)
    assert words(node) == [(True, 0.5)]
    node.seconds(21, temperature_c=75.0)
    assert words(node) == [(True, 0.5), (False, 1.0)]


def test_what_the_owner_needs_for_long_never_pauses_jobs() -> None:
    node = Owned(yield_share=0.25)
    node.cpu(*[80] * 600)
    assert words(node) == [(True, 0.25)]


def test_a_new_life_begins_at_full_speed() -> None:
    node = Owned(yield_share=0.25)
    node.cpu(*[80] * 6)
    node.tell(Woken(incarnation=2, resumed=True, at=NOW + 100))
    assert node.core.state.need.share == node.core.state.need.pace == 1.0


def test_a_slow_node_is_no_measure() -> None:
    node = Owned(yield_share=0.25)
    node.roster("other")
    node.end_process()
    node.cpu(*[80] * 6)
    node.tell(MeasureNode(node="me", ticket="t", request=node.core.state.jobs["j"].request, streams=1, seconds=1.0))
    assert node.said(NodeMeasured)[0].problem.startswith("not measured: it yields")

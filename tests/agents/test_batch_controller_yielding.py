"""The batch controller and nodes whose owners need them: less work at once, and as much as before afterwards."""

import pytest
from test_batch_controller import EQUAL, Fleet

from schemas.nodes import NodeProfile, NodeYielding
from schemas.training import Assignment

WHY = "yields: its owner's programs use 80 % of its CPU (limit 50 %); jobs go on at 25 % of their speed"


def yields(fleet: Fleet, node: str, version: int, share: float, yielding: bool = True) -> list[Assignment]:
    reason = WHY if yielding else "goes on: its owner no longer needs it"
    fleet.tell(NodeYielding(node=node, version=version, yielding=yielding, share=share, reason=reason))
    seconds, link = EQUAL[node]
    fleet.nodes[node] = (seconds / (share or 1.0), link)
    return fleet.wait(1.0)


def learnt(**request: object) -> Fleet:
    fleet = Fleet(EQUAL, **({"local_steps": 40} | request)).begin()  # type: ignore[arg-type]
    fleet.train(5)
    return fleet


@pytest.mark.parametrize("adaptation", ["reactive", "off"])
def test_a_node_that_slows_down_gets_less_before_anything_is_measured(adaptation: str) -> None:
    fleet = learnt(adaptation=adaptation)
    before = fleet.share("b").local_steps
    (message,) = yields(fleet, "b", 2, 0.25)
    assert fleet.share("b").local_steps == pytest.approx(before / 4, abs=1), "all of it at once, whatever the factor"
    assert {name: message.shares[name].local_steps for name in "ac"} == dict.fromkeys("ac", before)
    assert WHY in message.reason
    assert fleet.time("b") <= 1.1 * fleet.time("a")


def test_it_stays_so_while_rounds_confirm_it_and_ends_as_it_began() -> None:
    fleet = learnt()
    before = fleet.share("b").local_steps
    yields(fleet, "b", 2, 0.25)
    said = len(fleet.said)
    fleet.train(6)
    assert len(fleet.said) == said
    (message,) = yields(fleet, "b", 3, 1.0, yielding=False)
    assert message.shares["b"].local_steps == before
    fleet.train(6)
    assert fleet.share("b").local_steps == before


def test_a_word_that_was_heard_before_or_says_nothing_new_changes_nothing() -> None:
    fleet = learnt()
    yields(fleet, "b", 5, 0.5)
    said = len(fleet.said)
    assert yields(fleet, "b", 4, 0.1) == []
    assert yields(fleet, "b", 6, 0.5) == []
    assert len(fleet.said) == said


def test_a_new_life_of_the_node_yields_to_nobody() -> None:
    fleet = learnt()
    before = fleet.share("b").local_steps
    yields(fleet, "b", 5, 0.25)
    fleet.tell(NodeProfile(node="b", version=9, host="b", site="b", cpus=2, memory_bytes=1))
    fleet.wait(1.0)
    assert fleet.share("b").local_steps == before


def test_a_node_that_pauses_is_the_selectors_matter() -> None:
    fleet = learnt()
    said = len(fleet.said)
    assert yields(fleet, "b", 2, 0.0) == []
    assert len(fleet.said) == said


def test_gradients_of_a_slow_node_are_of_fewer_samples() -> None:
    fleet = Fleet(EQUAL, sync="step", microbatch=32).begin()
    fleet.train(5)
    before = fleet.share("b").microbatch
    yields(fleet, "b", 2, 0.25)
    fleet.train(3)
    assert fleet.share("b").microbatch == before // 4

"""Rounds of a job all of whose nodes average in the midst of them: long ones lose nothing by their length."""

import math

import pytest

from agents.batch_controller import goodput
from agents.batch_controller.goodput import Part
from agents.batch_controller.inside import Inside, apart, covers, heard
from schemas.sites import SitePaced, SiteParted
from tests.agents.test_batch_controller_goodput import UsefulFleet, fleet

LAB = Inside(members=("a", "b", "c"), epoch=5, steps=2.5)


def test_what_a_speaker_says_is_kept() -> None:
    said = SitePaced(
        job="j", node="a", epoch=5, members=("a", "b", "c"), parts=4, steps=2.5, seconds=0.04, reason=""
    )  # fmt: skip
    assert heard(said) == LAB


def test_it_counts_where_all_who_take_part_are_in_it() -> None:
    assert covers(LAB, ("c", "a"))
    assert not covers(LAB, ("a", "d"))
    assert not covers(LAB, ())
    assert not covers(None, ("a",))
    assert apart(LAB, ("a", "b"), 10.0) == 2.5
    assert apart(LAB, ("a", "b"), 1.0) == 1.0, "a round of one step has an average after each"
    assert apart(LAB, ("a", "d"), 10.0) == 10.0
    assert apart(None, ("a", "d"), math.inf) == math.inf


def test_a_step_is_worth_as_much_in_a_round_of_forty_as_in_one_of_the_steps_between_averages() -> None:
    long, short = ([Part(steps, 8)] * 4 for steps in (40, 2.5))
    inside = goodput.progress(long, 200.0, 8, apart=2.5)
    assert inside / 40 == pytest.approx(goodput.progress(short, 200.0, 8) / 2.5)
    assert goodput.progress(long, 200.0, 8) < 0.95 * inside


def paced(epoch: int, *members: str) -> SitePaced:
    return SitePaced(job="j", node="a", epoch=epoch, members=members, parts=4, steps=2.0, seconds=0.01, reason="")


def seconds(made: UsefulFleet) -> float:
    return made.latest.round_seconds


def test_rounds_get_longer_once_all_average_in_the_midst_of_them_and_no_longer_than_pays() -> None:
    apart_, together, some = (fleet(dict.fromkeys("abc", (0.05, "excellent")), scale=2000.0) for _ in range(3))
    for each in (apart_, together, some):
        each.train(3)
    together.tell(paced(5, "a", "b", "c"))
    some.tell(paced(5, "a", "b"))
    for each in (apart_, together, some):
        each.train(30)
    assert seconds(together) > 1.5 * seconds(apart_)
    assert seconds(together) < 20 * 0.5, "each as long as who looks at anchors has to wait"
    assert seconds(some) == seconds(apart_), "one of them stands elsewhere"
    together.tell(SiteParted(job="j", node="b", epoch=4, reason="an earlier group"))
    assert together.core.state.jobs["j"].inside is not None
    together.tell(SiteParted(job="j", node="b", epoch=5, reason="can't be reached"))
    assert together.core.state.jobs["j"].inside is None, "they drift apart again"

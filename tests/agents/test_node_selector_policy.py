"""Policies of selection: their arithmetic in tables, and what they make of a fleet."""

import pytest
from node_selector_world import World

from agents.node_selector import NodeSelectorSettings
from agents.node_selector.policy import (
    adaptive_threshold,
    contribution,
    efficiency,
    outlier_threshold,
    quarantine_seconds,
    quorum_of,
    reliability,
    turn_after,
)
from agents.node_selector.reducers import Standing, order_reducers
from agents.node_selector.selection import Candidate, Rule, select
from schemas.training import Roster, Tuning

SETTINGS = NodeSelectorSettings()
FIVE = ("a", "b", "c", "d", "e")


@pytest.fixture
def world() -> World:
    world = World()
    world.fleet(*FIVE)
    return world


def linked(world: World, **scores: float) -> None:
    for node, score in scores.items():
        world.link(node, score)


# Arithmetic


@pytest.mark.parametrize(
    ("nodes", "quorum"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (50, 17), (10_000, 3334)]
)
def test_quorum(nodes: int, quorum: int) -> None:
    assert quorum_of(nodes) == quorum


@pytest.mark.parametrize(("compute", "waiting", "value"), [(3, 1, 0.75), (1, 0, 1.0), (0, 5, 0.0), (0, 0, 0.0)])
def test_efficiency(compute: float, waiting: float, value: float) -> None:
    assert efficiency(compute, waiting) == value


@pytest.mark.parametrize(
    ("successes", "attempts", "value"), [(0, 0, 0.9), (4, 4, 0.95), (0, 4, 0.45), (10, 10, 13.6 / 14), (0, 10, 3.6 / 14)]
)
def test_reliability_begins_with_trust_and_follows_the_evidence(successes: float, attempts: float, value: float) -> None:
    assert reliability(successes, attempts, SETTINGS) == pytest.approx(value)


def test_contribution_is_half_and_half() -> None:
    assert contribution(1.0, 0.0) == contribution(0.0, 1.0) == 0.5


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        ([0.9, 0.9], None),
        ([0.9, 0.9, 0.9], 0.8),  # equal links: the margin
        ([0.9, 0.9, 0.9, 0.1], 0.7 - 0.34641),  # one deviation under the mean
    ],
)
def test_adaptive_threshold(scores: list[float], threshold: float | None) -> None:
    assert adaptive_threshold(scores, SETTINGS) == (None if threshold is None else pytest.approx(threshold, abs=1e-4))


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        ([0.9, 0.1], None),
        ([0.9, 0.9, 0.9, 0.1], 0.4),  # the outlier moves neither median nor MAD
        ([0.9, 0.7, 0.5, 0.3, 0.1], 0.5 - 3 * 1.4826 * 0.2),  # a wide fleet has no outliers
    ],
)
def test_outlier_threshold(scores: list[float], threshold: float | None) -> None:
    assert outlier_threshold(scores, SETTINGS) == (None if threshold is None else pytest.approx(threshold))


@pytest.mark.parametrize(("level", "seconds"), [(0, 30), (1, 60), (2, 120), (4, 480), (5, 600), (1000, 600)])
def test_quarantines_grow_to_a_limit(level: int, seconds: float) -> None:
    assert quarantine_seconds(level, SETTINGS) == seconds


@pytest.mark.parametrize(("times", "rounds"), [(0, 10), (1, 10), (2, 20), (3, 40), (4, 80), (50, 80)])
def test_turns_come_later_each_time(times: int, rounds: int) -> None:
    assert turn_after(times, SETTINGS) == rounds


# The choice itself


def test_the_floor_is_kept_with_the_best_of_the_worst() -> None:
    candidates = [Candidate(node=n, score=s, member=False) for n, s in {"a": 0.1, "b": 0.3, "c": 0.9, "d": 0.2}.items()]
    rule = Rule(measure="link", threshold=0.4, words="", at_entry=True, floor=2)
    selection = select(candidates, rule, choosing=True)
    assert (selection.chosen, selection.needed) == (("b", "c"), ("b",))
    assert all(left.reason for left in selection.out.values())


def test_an_unknown_score_speaks_neither_for_nor_against() -> None:
    rule = Rule(measure="link", threshold=0.4, words="", at_entry=True)
    candidates = [Candidate(node="a", score=None, member=False), Candidate(node="b", score=0.39, member=False)]
    assert select(candidates, rule, choosing=True).chosen == ("a",)


def test_forced_nodes_go_beyond_the_limit() -> None:
    candidates = [Candidate(node=n, score=0.0, member=False, forced=True) for n in "abc"]
    candidates.append(Candidate(node="d", score=1.0, member=True))
    assert select(candidates, Rule(measure="x", cap=2), choosing=True).chosen == ("a", "b", "c")


def test_the_list_of_reducers_does_not_turn_with_noise() -> None:
    standings = [Standing(node="a", merit=0.80), Standing(node="b", merit=0.84), Standing(node="c", merit=0.70)]
    kept = order_reducers(standings, ("a", "c"), limit=2, margin=0.15, choosing=True)
    assert kept == ("a", "b")
    assert order_reducers(standings, ("a", "c"), limit=2, margin=0.15, choosing=False) == ("a", "c")
    assert order_reducers(standings, (), limit=2, margin=0.15, choosing=True) == ("b", "a")


def test_the_unfit_reduce_only_where_nobody_else_is_left() -> None:
    standings = [
        Standing(node="a", merit=0.9, fit=False),
        Standing(node="b", merit=0.1),
        Standing(node="c", merit=1, ready=False),
    ]
    assert order_reducers(standings, ("a",), limit=3, margin=0.15, choosing=True) == ("b", "c", "a")


# The policies in a fleet


def test_all_takes_everybody(world: World) -> None:
    linked(world, a=1, b=1, c=90)
    world.start(selection="all")
    for _ in range(20):
        for node in FIVE:
            world.steps(node, 0.1 if node == "a" else 5.9)
        world.rounds(1)
    assert [roster.nodes for roster in world.all(Roster)] == [FIVE]


def test_quality_keeps_bad_links_out_from_the_start_and_explains(world: World) -> None:
    linked(world, a=90, b=39, c=80, d=10)
    world.start(selection="quality")
    assert world.roster().nodes == ("a", "c", "e")
    assert world.why("b") == "its link, 0.39, is under 0.40 (the least that the job's policy asks for)"


def test_quality_waits_before_it_leaves_a_member_out_and_lets_it_back_with_a_margin(world: World) -> None:
    linked(world, a=90, b=90, c=90, d=90, e=90)
    world.start(selection="quality")
    world.rounds(5)
    world.link("e", 30)
    world.rounds(2)
    world.link("e", 60)
    world.rounds(1)
    world.link("e", 30)
    world.rounds(2)
    assert len(world.all(Roster)) == 1
    world.rounds(1)
    assert world.roster().nodes == ("a", "b", "c", "d")
    world.rounds(30)
    assert world.roster().version == 2  # no turns under a threshold that is a user's condition
    world.link("e", 42)
    world.rounds(4)
    assert world.roster().version == 2
    world.link("e", 46)
    world.rounds(1)
    assert world.roster().nodes == FIVE
    assert "e is back" in world.roster().reason


def test_quality_takes_what_there_is_where_too_few_are_good(world: World) -> None:
    linked(world, a=10, b=30, c=20, d=90, e=5)
    world.start(selection="quality", min_nodes=3)
    assert world.roster().nodes == ("b", "c", "d")


def test_adaptive_follows_the_fleet(world: World) -> None:
    linked(world, a=30, b=32, c=31, d=29, e=8)
    world.start(selection="adaptive")
    assert world.roster().nodes == ("a", "b", "c", "d")
    world.link("e", 30)
    world.rounds(3)
    assert world.roster().nodes == FIVE


def test_top_n_takes_the_best_and_fills_a_vacancy_at_once(world: World) -> None:
    linked(world, a=50, b=90, c=70, d=80, e=60)
    world.start(selection="top_n", max_nodes=3)
    assert world.roster().nodes == ("b", "c", "d")
    assert "takes 3 nodes" in world.why("e")
    world.leave("c")
    assert world.roster().nodes == ("b", "d", "e")


def test_top_n_changes_places_only_for_a_margin(world: World) -> None:
    linked(world, a=50, b=90, c=70, d=80, e=60)
    world.start(selection="top_n", max_nodes=3)
    world.link("e", 75)
    world.rounds(6)
    assert len(world.all(Roster)) == 1
    world.link("e", 100)
    world.rounds(1)
    assert world.roster().nodes == ("b", "d", "e")


def test_whoever_is_left_out_gets_a_turn_one_at_a_time(world: World) -> None:
    linked(world, a=50, b=90, c=70, d=80, e=10)
    world.start(selection="top_n", max_nodes=3)
    served = set(world.roster().nodes)
    for _ in range(40):
        before = set(world.roster().nodes)
        world.rounds(1)
        assert len(set(world.roster().nodes) - before) <= 1
        assert len(world.roster().nodes) == 3
        served |= set(world.roster().nodes)
    assert served == set(FIVE)
    assert any("gets a turn again" in roster.reason for roster in world.all(Roster))
    assert len(world.all(Roster)) <= 1 + 40 // 3


def unsteady(world: World, rounds: int) -> None:
    """Node e computes little and comes every second round only; the others are as they should be."""
    for number in range(rounds):
        inside = world.core.state.jobs["j"].nodes
        for node in inside:
            world.steps(node, *((0.3, 4) if node == "e" else (5.5, 80)))
        absent = ("e",) if number % 2 and "e" in inside else ()
        world.close(*[node for node in inside if node not in absent], missing=absent)


def test_contribution_leaves_out_who_is_idle_and_unreliable_for_long(world: World) -> None:
    world.start(selection="contribution")
    unsteady(world, 2)
    assert len(world.all(Roster)) == 1
    unsteady(world, 25)
    out = [roster for roster in world.all(Roster) if "e" not in roster.nodes]
    assert out
    assert "well below the others" in out[0].excluded[0].reason


def test_contribution_keeps_a_slow_link_that_does_contribute(world: World) -> None:
    world.start(selection="contribution")
    for _ in range(30):
        for node in FIVE:
            world.steps(node, *((0.3, 4) if node == "e" else (5.5, 80)))
        world.rounds(1)
    assert len(world.all(Roster)) == 1


def test_contribution_gives_another_chance_that_comes_later_each_time(world: World) -> None:
    world.start(selection="contribution")
    unsteady(world, 150)
    rosters = world.all(Roster)
    assert rosters[-1].version > 3
    turns = [roster for roster in rosters if "gets a turn again after" in roster.reason]
    waits = [int(roster.reason.split("again after ")[1].split()[0]) for roster in turns]
    assert len(waits) >= 2
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_nothing_is_chosen_while_adaptation_is_off(world: World) -> None:
    linked(world, a=90, b=90, c=90, d=90, e=90)
    world.start(selection="quality")
    tuning = {"job": "j", "phase": "adaptive", "policy": "reactive", "max_factor": 2, "reason": ""}
    world.give(Tuning(**tuning, version=2, adapt=False))
    world.give(Tuning(**tuning, version=1, adapt=True))
    world.link("a", 1)
    world.rounds(20)
    assert len(world.all(Roster)) == 1
    world.leave("b")
    assert world.roster().nodes == ("a", "c", "d", "e")
    world.give(Tuning(**tuning, version=3, adapt=True))
    world.rounds(1)
    assert "a" not in world.roster().nodes


def test_a_job_that_asked_for_no_adaptation_gets_none(world: World) -> None:
    linked(world, a=90)
    world.start(selection="quality", adaptation="off")
    world.link("a", 1)
    world.rounds(20)
    assert len(world.all(Roster)) == 1


def test_a_choice_never_takes_the_quorum(world: World) -> None:
    linked(world, a=90, b=90, c=90, d=90, e=90)
    world.start(selection="quality")
    linked(world, a=1, b=2, c=3, d=4, e=5)
    world.rounds(4)
    assert world.roster().nodes == ("d", "e")

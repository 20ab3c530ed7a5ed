"""`selection = "useful"`: expected useful samples a second, exploration, fairness, and its limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_selector_world import World

from agents.node_selector import useful
from agents.node_selector.policy import quorum_of
from agents.node_selector.state import Member
from schemas.decisions import NodeQuarantined
from schemas.nodes import WorkStarted

NODES = tuple("abcdef")


@pytest.fixture
def world() -> World:
    return World()


def play(world: World, rounds: int, brings: dict[str, int]) -> None:
    """Rounds to which everybody in the roster brings so many samples; newcomers are ready at once."""
    for _ in range(rounds):
        nodes = world.roster().nodes
        for node in nodes:
            world.ready(node)
        world.close(*nodes, samples=brings)


def member(world: World, node: str) -> Member:
    return world.core.state.jobs["j"].members[node]


def test_worth_is_what_counted_over_the_time_it_took(world: World) -> None:
    world.fleet("a", "b")
    world.start(selection="useful")
    world.close("a", "b")
    world.close("a", late={"b": 3}, samples={"a": 600, "b": 600}, seconds=6.0)
    assert useful.worth(member(world, "a")) == pytest.approx(100.0)
    assert useful.worth(member(world, "b")) == pytest.approx(25.0)


def test_a_newcomer_s_first_contribution_is_not_held_against_it(world: World) -> None:
    world.fleet("a", "b")
    world.start(selection="useful")
    world.close("a", "b", samples={"a": 60, "b": 5})
    assert member(world, "b").weighed == 0
    world.close("a", "b", samples={"a": 60, "b": 60})
    assert useful.worth(member(world, "b")) == useful.worth(member(world, "a"))
    world.give(WorkStarted(node="b", job="j", attempt=2, reason="again"))
    world.close("a", samples={"a": 60})
    assert member(world, "b").weighed == 1


def test_waiting_for_a_node_is_taken_off_its_worth(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start(selection="useful")
    for _ in range(4):
        world.close("a", "b", "c", samples=dict.fromkeys("abc", 60), seconds=6.0)
    world.close("a", "b", missing=("c",), samples={"a": 60, "b": 60}, seconds=24.0)
    assert member(world, "c").brought == pytest.approx((3 * 60 - 120 / 24 * 18) / 4)
    assert member(world, "a").brought == pytest.approx(60)


def test_the_most_useful_nodes_win_the_places(world: World) -> None:
    world.fleet(*NODES)
    world.start(selection="useful", max_nodes=2, min_nodes=1)
    play(world, 120, {"a": 10, "b": 20, "c": 30, "d": 40, "e": 200, "f": 300})
    counts = {node: member(world, node).served for node in NODES}
    assert counts["e"] + counts["f"] > 120, "of 240 places in all"
    play(world, 30, {"a": 10, "b": 20, "c": 30, "d": 40, "e": 200, "f": 300})
    assert {"e", "f"} & set(world.roster().nodes)


def test_everybody_is_looked_at_and_most_of_it_early(world: World) -> None:
    world.fleet(*NODES)
    world.start(selection="useful", max_nodes=2, min_nodes=1)
    play(world, 45, dict.fromkeys(NODES, 100))
    assert all(member(world, node).weighed for node in NODES)


def test_a_node_that_became_fast_is_found_again(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start(selection="useful", max_nodes=1, min_nodes=1)
    play(world, 40, {"a": 100, "b": 50, "c": 10})
    before = member(world, "c").served
    play(world, 160, {"a": 100, "b": 50, "c": 500})
    assert member(world, "c").served > before + 60


def test_a_node_that_costs_more_than_it_brings_is_left_out_and_gets_a_turn_later(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start(selection="useful", min_nodes=1)
    samples = dict.fromkeys("abc", 60) | {"d": 1}
    for number in range(12):
        nodes = world.roster().nodes
        if "d" not in nodes:
            break
        if number % 2 or number < 2:
            world.close(*nodes, samples=samples, seconds=6.0)
        else:
            world.close(*[node for node in nodes if node != "d"], missing=("d",), samples=samples, seconds=30.0)
    assert set(world.roster().nodes) == {"a", "b", "c"}
    assert "its use, " in world.why("d")
    assert "waiting for it costs more than it brings" in world.why("d")
    play(world, 14, samples)
    assert "d" in world.roster().nodes or member(world, "d").times_out > 1


def test_a_node_that_flaps_is_quarantined_for_ever_longer(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start(selection="useful", min_nodes=1)
    for _ in range(3):
        for _ in range(4):
            world.ready("d")
            world.close("a", "b", "c", missing=("d",), samples=dict.fromkeys("abc", 60))
        world.run(700.0)
    seconds = [said.seconds for said in world.all(NodeQuarantined)]
    assert len(seconds) >= 2
    assert seconds == sorted(set(seconds)), "each is longer"


def test_places_for_exploration_decay_to_one(world: World) -> None:
    world.fleet(*NODES)
    world.start(selection="useful")
    job, settings_ = world.core.state.jobs["j"], world.settings
    counts = []
    for number in (0, 20, 60, 1000):
        job.round = number
        counts.append(useful.places_to_explore(job, 20, settings_))
    assert counts == [6, 4, 2, 1]


def test_before_anything_was_brought_links_are_all_there_is_to_go_by(world: World) -> None:
    world.fleet("a", "b")
    world.start(selection="useful")
    world.link("a", 80.0)
    state = world.core.state
    assert useful.scores(state.jobs["j"], state.nodes, world.settings) == {"a": 0.8, "b": None}


def test_strangers_with_better_links_than_the_weakest_wait_for_no_turn_and_come_a_few_at_a_time(world: World) -> None:
    world.fleet(*NODES)
    world.start(selection="useful", max_nodes=2, min_nodes=1)
    for node in "cde":
        world.link(node, 95.0)
    world.link("f", 20.0)
    play(world, 1, {"a": 100, "b": 50})
    job = world.core.state.jobs["j"]
    found = useful.scores(job, world.core.state.nodes, world.settings)
    assert useful.promising(job, found, world.settings) == set(), "one round says little of those who are in"
    job.members["a"].weighed = job.members["b"].weighed = world.settings.patience
    job.members["a"].brought, job.members["b"].brought = 100.0, 50.0
    job.members["a"].spanned = job.members["b"].spanned = 6.0
    found = useful.scores(job, world.core.state.nodes, world.settings)
    assert useful.promising(job, found, world.settings) == {"c", "d", "e"}
    before = set(world.roster().nodes)
    play(world, 2, {"a": 100, "b": 50})
    came = set(world.roster().nodes) - before
    assert len(came) == 1
    assert came < {"c", "d", "e"}


ROUND = st.tuples(
    st.lists(st.sampled_from(NODES), unique=True),
    st.lists(st.sampled_from(NODES), unique=True, max_size=3),
    st.dictionaries(st.sampled_from(NODES), st.integers(1, 5000)),
    st.sampled_from([0.0, 0.5, 6.0, 60.0]),
)


@given(st.lists(ROUND, max_size=40), st.sampled_from([None, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_whatever_rounds_bring_scores_are_bounded_and_the_quorum_is_kept(rounds: list[tuple], cap: int | None) -> None:  # type: ignore[type-arg]
    world = World()
    world.fleet(*NODES)
    world.start(selection="useful", min_nodes=2, max_nodes=cap)
    for there, missing, samples, seconds in rounds:
        quorum, eligible = world.roster().quorum, 6 - len(world.all(NodeQuarantined))
        absent = tuple(node for node in missing if node in world.roster().nodes and node not in there)
        world.close(*there, missing=absent, samples=samples, seconds=seconds)
        job = world.core.state.jobs["j"]
        found = useful.scores(job, world.core.state.nodes, world.settings)
        assert all(score is None or -1 <= score <= 1 + 1e-9 for score in found.values())
        assert len(job.nodes) >= min(2, eligible)
        assert len(job.nodes) >= min(quorum, eligible) or cap is not None
        assert job.quorum == quorum_of(len(job.nodes))

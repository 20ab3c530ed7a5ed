"""The healer by direct calls: what it leaves to others, what it orders, and how it judges what came of it."""

import pytest
from healer_world import NODES, World

from agents.healer import policy
from agents.healer.state import Lesson
from schemas.bus import BusDisturbed
from schemas.decisions import NodeJoined, NodeLost
from schemas.healing import AgentRestartOrdered, Healed, HealingFailed, HealingOrdered, HealingWithheld
from schemas.health import FigureChanged, WorkStalled
from schemas.jobs import JobPhase
from schemas.nodes import NodeLeaving, NodeYielding
from schemas.prediction import FaultForeseen, RiskKind
from schemas.training import RoundOpened, StepTimed


def stalls(world: World, node: str = "b") -> None:
    """Its process takes no steps."""
    world.give(WorkStalled(node=node, job="j", silent_seconds=30, usual_seconds=1, reason="no step for 30 s"))


def test_what_heals_by_itself_is_left_alone_and_told() -> None:
    world = World()
    world.fails("b")
    world.run(5)
    world.closes(*NODES, rounds=2)
    assert not world.said
    world.run(60)
    healed = world.last(Healed)
    assert (healed.node, healed.job, healed.fault, healed.remedy, healed.orders) == ("b", "j", "crashed", "wait", 0)
    assert healed.seconds == pytest.approx(5)
    assert healed.successes == pytest.approx(1)
    assert not world.all(HealingOrdered)


def test_a_round_that_was_under_way_at_the_fault_proves_nothing() -> None:
    world = World()
    world.fails("b")
    world.closes(*NODES)
    world.run(30)
    assert not world.said


def test_what_lasts_is_treated_and_the_order_says_why() -> None:
    world = World()
    stalls(world)
    fault = f"somebody:1:{world.count}"
    world.run(46)
    order = world.last(HealingOrdered)
    assert (order.node, order.job, order.fault) == ("b", "j", "stalled")
    assert order.remedy in policy.PRIORS["stalled"]
    assert "no step for 30 s" in order.reason
    assert "assumed" in order.reason
    assert world.causes[-1] == fault
    world.run(10)
    world.closes(*NODES, rounds=2)
    world.run(30)
    healed = world.last(Healed)
    assert (healed.orders, healed.remedy) == (1, order.remedy)
    assert healed.remedy_seconds == pytest.approx(11, abs=0.1)
    assert healed.seconds == pytest.approx(56, abs=0.1)
    assert not world.core.state.cases


def test_a_remedy_that_fails_is_followed_by_another_after_a_pause() -> None:
    world = World()
    stalls(world)
    world.run(600)
    orders = world.all(HealingOrdered)
    assert {order.remedy for order in orders[:2]} == {"restart", "move"}
    assert world.all(HealingFailed)[0].remedy == orders[0].remedy
    failed = [at for at, said in zip(world.at, world.said, strict=True) if isinstance(said, HealingFailed)]
    given = [at for at, said in zip(world.at, world.said, strict=True) if isinstance(said, HealingOrdered)]
    gaps = [after - before for before, after in zip(failed, given[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 15
    assert gaps[-1] > gaps[0]


def test_after_the_last_order_nothing_more_is_tried() -> None:
    world = World()
    stalls(world)
    world.run(7200)
    assert len(world.all(HealingOrdered)) == 6
    assert world.last(HealingFailed).final
    assert not world.core.state.cases


def test_a_fault_that_comes_back_goes_on_with_its_back_off() -> None:
    world = World()
    stalls(world)
    world.run(46)
    world.closes(*NODES, rounds=2)
    world.run(30)
    assert world.last(Healed).orders == 1
    stalls(world)
    assert world.core.state.cases["b/j"].level == 1


def test_a_crash_in_the_proving_time_is_a_failure_of_the_remedy() -> None:
    world = World()
    stalls(world)
    world.run(46)
    remedy = world.last(HealingOrdered).remedy
    world.run(10)
    world.closes(*NODES, rounds=2)
    world.run(5)
    world.fails("b")
    failed = world.last(HealingFailed)
    assert (failed.remedy, failed.fault) == (remedy, "stalled")
    assert world.core.state.cases["b/j"].fault == "crashed"
    assert not world.all(Healed)


def test_what_a_node_has_given_up_is_tried_again_but_not_what_only_a_person_mends() -> None:
    world = World()
    world.fails("b")
    world.run(3)
    world.fails("b", retry=False)
    world.roster("a", "c", "d")
    world.run(46)
    assert world.last(HealingOrdered).remedy == "retry"
    world.fails("c", "bundle", retry=False)
    world.fails("d", "import", retry=False)
    assert set(world.core.state.cases) == {"b/j"}


def test_nobody_is_moved_out_of_a_job_that_cannot_spare_it() -> None:
    world = World()
    world.roster("a", "b")
    for _ in range(4):
        world.fails("b")
        world.run(200)
    assert not world.all(HealingOrdered)


def test_a_node_that_was_moved_as_ordered_is_healed_when_the_others_go_on() -> None:
    world = World()
    world.fails("b")
    world.run(46)
    assert world.last(HealingOrdered).remedy == "move"
    world.roster("a", "c", "d")
    world.closes("a", "c", "d", rounds=2)
    world.run(30)
    assert world.last(Healed).remedy == "move"


@pytest.mark.parametrize("how", ["job over", "node lost", "owner", "taken out"])
def test_a_case_ends_where_nothing_can_be_learned_of_it_any_more(how: str) -> None:
    world = World()
    stalls(world)
    match how:
        case "job over":
            world.job(JobPhase.COMPLETED)
        case "node lost":
            world.give(NodeLost(node="b", silent_seconds=5, reason="r"))
        case "owner":
            world.give(NodeYielding(node="b", version=1, yielding=True, reason="a game"))
        case "taken out":
            world.roster("a", "c", "d")
    world.run(600)
    assert not world.said
    assert not world.timers


def slow(world: World, kind: str = "low") -> None:
    """Half as fast as usual."""
    world.give(
        FigureChanged(node="b", figure="samples_per_s", kind=kind, value=40, usual=100, deviation=2, reason="40, not 100")
    )


def steps(world: World, samples: int) -> None:
    """So many samples a second."""
    world.give(StepTimed(job="j", node="b", round=1, steps=1, samples=samples, seconds=1, microbatch=8, loss=1))


def test_a_slow_node_is_well_when_it_is_as_fast_as_usual() -> None:
    world = World()
    slow(world)
    world.run(46)
    assert world.last(HealingOrdered).fault == "slow"
    for samples in (40, 90, 90, 50, 90, 90):
        steps(world, samples)
    world.run(25)
    assert not world.all(Healed)
    steps(world, 90)
    world.run(5)
    steps(world, 95)
    world.run(20)
    assert world.last(Healed).fault == "slow"


def test_a_node_that_serves_its_owner_may_be_slow() -> None:
    world = World()
    world.give(NodeYielding(node="b", version=1, yielding=True, share=0.3, reason="a game"))
    slow(world)
    assert not world.core.state.cases


def test_a_reducer_that_others_replace_again_and_again_is_demoted() -> None:
    world = World()
    for round_ in (1, 4):
        for term, node in ((0, "a"), (1, "b")):
            opened = RoundOpened(
                job="j", node=node, round=round_, term=round_ + term, deadline_seconds=5, expected=NODES, reason="r"
            )
            world.give(opened)
    world.run(46)
    order = world.last(HealingOrdered)
    assert (order.node, order.fault, order.remedy) == ("a", "reducer", "demote")
    assert order.seconds > 0
    world.closes(*NODES, rounds=2, reducer="b")
    world.run(30)
    assert world.last(Healed).remedy == "demote"


def test_a_node_that_comes_and_goes_is_spared_but_goodbyes_do_not_count() -> None:
    world = World()
    for _ in range(4):
        leaving = NodeLeaving(node="c", reason="r")
        world.give(leaving)
        world.give(NodeLost(node="c", silent_seconds=1, reason="goodbye", cause=leaving.id))
    assert not world.core.state.cases
    for _ in range(3):
        world.give(NodeLost(node="b", silent_seconds=5, reason="r"))
        world.run(10)
        world.give(NodeJoined(node="b", returned=True, reason="r"))
        world.run(10)
    assert world.core.state.cases["b/"].phase == "proving"
    world.give(NodeLost(node="b", silent_seconds=5, reason="r"))
    order = world.last(HealingOrdered)
    assert (order.node, order.job) == ("b", None)
    assert order.remedy in ("quarantine", "demote")


def foreseen(world: World, kind: RiskKind, *, expected: bool = True, held_out: bool = False, version: int = 1) -> None:
    """The predictor speaks of `b`."""
    world.give(
        FaultForeseen(
            node="b", kind=kind, version=version, expected=expected, chance=0.9, threshold=0.7, horizon_seconds=120,
            figure="f", basis="trend", held_out=held_out, reason="it gets too hot",
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "remedies"),
    [("memory", {"free", "shrink", "move"}), ("heat", {"move"}), ("link", {"demote"}), ("speed", set())],
)
def test_what_is_expected_leads_to_sparing_the_node_at_once_and_never_to_a_restart(
    kind: RiskKind, remedies: set[str]
) -> None:
    world = World(back_off_seconds=1.0, node_burst=9)
    foreseen(world, kind)
    world.run(0)
    orders = world.all(HealingOrdered)
    assert [order.fault for order in orders] == ["foreseen"] * bool(remedies)
    world.run(400)
    assert {order.remedy for order in world.all(HealingOrdered)} == remedies
    assert all(order.job is None for order in world.all(HealingOrdered))


def test_what_is_left_alone_by_lot_is_left_alone_and_an_all_clear_heals() -> None:
    world = World()
    foreseen(world, "heat", held_out=True)
    assert not world.core.state.cases
    foreseen(world, "heat", version=2)
    world.run(1)
    foreseen(world, "heat", expected=False, version=1)
    world.run(5)
    foreseen(world, "heat", expected=False, version=3)
    world.run(25)
    healed = world.last(Healed)
    assert (healed.node, healed.job, healed.fault, healed.remedy) == ("b", None, "foreseen", "move")
    assert healed.seconds == pytest.approx(6)


# Budgets.


def test_a_node_has_a_budget_of_its_own_and_it_is_said_when_it_is_spent() -> None:
    world = World(back_off_seconds=0.001, back_off_most_seconds=0.001, node_burst=1, node_every_seconds=500)
    stalls(world)
    world.run(300)
    assert len(world.all(HealingOrdered)) == 1
    said = world.all(HealingWithheld)
    assert [each.budget for each in said] == ["node"]
    assert 0 < said[0].seconds <= 500
    world.run(500)
    assert len(world.all(HealingOrdered)) == 2


def test_many_faults_at_once_share_the_fleets_budget() -> None:
    world = World(fleet_burst=2, fleet_every_seconds=100)
    names = tuple(f"n{i}" for i in range(30))
    world.roster(*names)
    for name in names:
        stalls(world, name)
    world.run(145)
    assert len(world.all(HealingOrdered)) == 2 + 1  # one more after a hundred seconds
    assert {said.budget for said in world.all(HealingWithheld)} == {"fleet"}


def test_a_healer_told_to_only_watch_learns_and_orders_nothing() -> None:
    world = World(orders=False)
    stalls(world)
    world.run(300)
    assert not world.said
    world.closes(*NODES, rounds=2)
    world.run(30)
    assert world.last(Healed).remedy == "wait"
    world.usage("x", "y", "z")
    for _ in range(10):
        world.run(10)
        world.usage("x", "y")
    assert not world.all(AgentRestartOrdered)


# Its own health.


def test_a_healer_that_stood_still_hears_before_it_judges() -> None:
    world = World()
    stalls(world)
    world.run(46)
    given = len(world.said)
    world.pause(500)
    world.run(0)
    assert len(world.said) == given
    world.closes(*NODES, rounds=2)
    world.run(30)
    assert world.last(Healed).orders == 1


# Agents.


def silence(world: World, *speaking: str, seconds: int = 60) -> None:
    """Only these agents speak."""
    for _ in range(0, seconds, 10):
        world.run(10)
        world.usage(*speaking)


def test_a_silent_agent_is_started_again_once() -> None:
    world = World()
    world.usage("optimizer", "recorder", "job_desk", "healer")
    silence(world, "recorder", "job_desk", seconds=600)
    assert [order.target for order in world.all(AgentRestartOrdered)] == ["optimizer"]
    assert world.last(HealingFailed).final
    world.usage("optimizer")
    silence(world, "recorder", "job_desk", seconds=600)
    assert len(world.all(AgentRestartOrdered)) == 2


def test_an_agent_that_speaks_again_is_healed() -> None:
    world = World()
    world.usage("optimizer", "recorder", "job_desk")
    silence(world, "recorder", "job_desk", seconds=50)
    assert world.last(AgentRestartOrdered).silent_seconds >= 40
    silence(world, "recorder", "job_desk", "optimizer", seconds=60)
    healed = world.last(Healed)
    assert (healed.target, healed.node, healed.remedy) == ("optimizer", None, "restart_agent")


def test_nobody_is_accused_while_most_are_silent_or_the_healer_was_deaf() -> None:
    world = World()
    world.usage("optimizer", "recorder", "job_desk")
    world.run(300)
    assert not world.said
    world.usage("optimizer", "recorder", "job_desk")
    silence(world, "recorder", "job_desk", seconds=30)
    world.pause(60)
    world.run(0)
    world.usage("recorder", "job_desk")
    world.run(30)
    assert not world.said
    world.usage("recorder", "job_desk")
    world.give(BusDisturbed(kind="reconnected", seconds=1.0, reason="r", source="healer"))
    world.run(35)
    assert not world.said


# Choices.


def test_what_helped_is_chosen_and_what_failed_is_not() -> None:
    world = World()
    settings, rng = world.core.settings, world.core.rng
    lessons = {"stalled/restart": Lesson(), "stalled/move": Lesson()}
    for _ in range(20):
        policy.fail(lessons["stalled/restart"], settings)
        policy.succeed(lessons["stalled/move"], 12.0, settings)
    chosen = [policy.choose("stalled", ["restart", "move"], lessons, rng, settings) for _ in range(50)]
    assert chosen.count("move") >= 45
    fresh = [policy.choose("stalled", ["restart", "move"], {}, rng, settings) for _ in range(200)]
    assert 20 < fresh.count("restart") < 200, "the cheap one first, but the other gets its turn"
    assert lessons["stalled/move"].mean == pytest.approx(12.0)
    assert lessons["stalled/move"].successes == pytest.approx((1 - 0.97**20) / 0.03)

"""The optimizer by direct calls: phases, policies, rollback, disturbances, cost, restarts."""

from itertools import pairwise

import msgspec
import pytest
from optimizer_world import World

from agents.optimizer import OptimizerState
from schemas.decisions import AdaptationCost, RolledBack
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.network import LinkQuality
from schemas.training import Tuning


@pytest.fixture
def world() -> World:
    return World()


# Phases


def test_phases_of_a_job_in_order(world: World) -> None:
    world.job(JobPhase.QUEUED)
    world.job()
    world.assign()
    world.rounds(4)
    for _ in range(40):
        world.close(loss=1.0)
    world.job(JobPhase.FINISHING)
    world.job(JobPhase.COMPLETED)
    phases = [tuning.phase for tuning in world.all(Tuning)]
    assert list(dict.fromkeys(phases)) == ["initialisation", "warm_up", "adaptive", "convergence", "completed"]
    assert [tuning.version for tuning in world.all(Tuning)] == list(range(1, len(phases) + 1))
    assert all(tuning.reason for tuning in world.all(Tuning))
    assert world.core.state.runs == {}


def test_nothing_may_change_before_the_warm_up_is_over(world: World) -> None:
    world.job()
    for _ in range(2):
        world.close()
        assert (world.tuning.phase, world.tuning.adapt, world.tuning.max_factor) == ("warm_up", False, 1.0)
    world.close()
    assert (world.tuning.phase, world.tuning.adapt, world.tuning.max_factor) == ("adaptive", True, 2.0)


@pytest.mark.parametrize(("rounds", "warm_up"), [(1, 1), (5, 1), (10, 2), (25, 3), (1000, 3)])
def test_a_short_job_warms_up_for_a_fifth_of_it(world: World, rounds: int, warm_up: int) -> None:
    world.job(rounds=rounds)
    for number in range(1, warm_up + 1):
        assert world.tuning.phase != "adaptive", number
        world.close()
    assert world.tuning.phase == "adaptive"


def test_a_loss_that_moves_again_ends_convergence(world: World) -> None:
    world.adaptive()
    for _ in range(10):
        world.close(loss=1.0)
    assert (world.tuning.phase, world.tuning.adapt) == ("convergence", False)
    for number in range(12):
        world.close(loss=1.0 - 0.03 * number)
    assert world.tuning.phase == "adaptive"


def test_held_out_losses_decide_where_there_are_enough(world: World) -> None:
    world.adaptive()
    for _ in range(20):
        world.close(loss=1.0)
        world.validate(5.0 * 0.97**world.round)
        if world.round > 12:
            assert world.tuning.phase == "adaptive"


def test_an_event_in_convergence_allows_a_little(world: World) -> None:
    world.adaptive()
    for _ in range(10):
        world.close(loss=1.0)
    world.link("a", LinkQuality.POOR)
    assert (world.tuning.phase, world.tuning.adapt, world.tuning.max_factor) == ("convergence", True, 1.25)
    assert "link of a" in world.tuning.reason
    for _ in range(5):
        world.close(loss=1.0)
    assert not world.tuning.adapt


@pytest.mark.parametrize("end", [JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.CANCELLED])
def test_a_job_that_ends_early_is_told_so_and_forgotten(world: World, end: JobPhase) -> None:
    world.adaptive()
    world.job(end)
    assert (world.tuning.phase, world.tuning.adapt) == ("completed", False)
    assert world.core.state.runs == {}
    stale = JobState(
        job="j",
        version=1,
        state=JobPhase.RUNNING,
        reason="",
        round=0,
        rounds=9,
        request=JobRequest(kind="train", workload="w:w"),
        submitted_at=0.0,
    )
    assert world.give(stale) == []


# Policies


def test_off_means_off(world: World) -> None:
    world.adaptive(adaptation="off")
    world.rounds(3)
    world.assign(16)
    world.link("a", LinkQuality.POOR)
    world.rounds(10, rate=10)
    assert not any(tuning.adapt for tuning in world.all(Tuning))
    assert world.all(RolledBack) == []


def test_conservative_waits_after_each_change(world: World) -> None:
    world.adaptive(adaptation="conservative")
    assert (world.tuning.adapt, world.tuning.max_factor) == (True, 2.0)
    world.assign(16)
    for _ in range(world.settings.conservative_hold):
        assert not world.tuning.adapt
        world.close()
    assert world.tuning.adapt


def test_aggressive_does_not_wait(world: World) -> None:
    world.adaptive(adaptation="aggressive")
    for microbatch in (16, 32, 64):
        world.assign(microbatch)
        world.close(110)
        assert (world.tuning.adapt, world.tuning.max_factor) == (True, 4.0)


def test_reactive_opens_for_events_and_closes_again(world: World) -> None:
    world.adaptive()
    world.rounds(world.settings.reactive_window)
    assert (world.tuning.adapt, world.tuning.max_factor) == (True, 1.25)
    said = world.link("b", LinkQuality.POOR)
    assert [type(message) for message in said] == [Tuning]
    assert world.tuning.max_factor == 2.0
    assert "link of b went from good to poor" in world.tuning.reason
    world.rounds(world.settings.reactive_window)
    assert world.tuning.max_factor == 1.25


def test_reactive_also_reacts_to_a_job_that_slows_down(world: World) -> None:
    world.adaptive()
    world.rounds(8)
    assert world.tuning.max_factor == 1.25
    world.rounds(4, rate=60)
    assert world.tuning.max_factor == 2.0
    assert "samples/s" in world.tuning.reason
    world.rounds(30, rate=60)
    assert world.tuning.max_factor == 1.25  # the new rate is the measure from then on


def test_a_change_that_pays_keeps_the_window_open(world: World) -> None:
    world.adaptive()
    world.assign(16)
    world.rounds(4, rate=150)
    assert "paid" in world.core.state.runs["j"].event
    assert world.core.state.runs["j"].open_until == world.round + world.settings.reactive_window


def test_links_of_others_old_news_and_first_grades_are_no_events(world: World) -> None:
    world.adaptive()
    world.rounds(8)
    assert world.link("stranger", LinkQuality.POOR) == []
    assert world.link("a", LinkQuality.POOR, previous=None, version=10_000) == []
    assert world.link("a", LinkQuality.FAIR, version=9_999) == []
    assert world.link("a", LinkQuality.POOR, previous=LinkQuality.POOR, version=10_001) == []


# Rollback


def test_a_change_that_makes_it_slower_is_taken_back(world: World) -> None:
    world.adaptive()
    world.rounds(2)
    world.assign(32)
    world.rounds(3, rate=70)
    assert world.all(RolledBack) == []
    world.rounds(1, rate=70)
    back = world.all(RolledBack)
    assert [(event.to_version, event.round) for event in back] == [(1, 9)]
    assert "samples/s against" in back[0].reason
    assert (world.tuning.rollback_to, world.tuning.adapt) == (1, False)
    world.assign(8)
    world.rounds(world.settings.cooldown, rate=100)
    assert (world.tuning.rollback_to, world.tuning.adapt) == (None, True)
    assert len(world.all(RolledBack)) == 1


@pytest.mark.parametrize("rate", [100, 95, 120])
def test_a_change_within_noise_or_for_the_better_stays(world: World, rate: float) -> None:
    world.adaptive()
    world.rounds(2)
    world.assign(16)
    world.rounds(12, rate=rate)
    assert world.all(RolledBack) == []


def test_one_bad_round_is_chance(world: World) -> None:
    world.adaptive()
    world.rounds(2)
    world.assign(16)
    world.close(100)
    world.close(20)
    world.rounds(10)
    assert world.all(RolledBack) == []


def test_a_noisy_job_needs_a_bigger_loss(world: World) -> None:
    world.job()
    world.assign()
    for rate in (100, 60, 140, 80, 120):
        world.close(rate)
    world.assign(16)
    world.rounds(8, rate=75)
    assert world.all(RolledBack) == []


@pytest.mark.parametrize("what", ["link", "death", "roster"])
def test_the_network_is_not_the_configurations_fault(world: World, what: str) -> None:
    world.adaptive()
    world.rounds(2)
    world.assign(16)
    world.close()
    if what == "link":
        world.link("a", LinkQuality.CRITICAL)
    elif what == "death":
        world.lose("a")
    else:
        world.assign(16, nodes=("a", "b", "c"))
    world.rounds(15, rate=30)
    assert world.all(RolledBack) == []


def test_a_loss_that_rises_after_a_change_takes_it_back(world: World) -> None:
    world.adaptive()
    world.rounds(2)
    world.assign(32)
    for number in range(4):
        world.close(loss=4.3 * 1.15**number)
    assert "loss rises" in world.all(RolledBack)[0].reason


def test_several_changes_in_a_row_are_judged_together(world: World) -> None:
    world.adaptive(adaptation="aggressive")
    world.rounds(2)
    for microbatch in (16, 32, 64, 32):
        world.assign(microbatch)
        world.rounds(1, rate=60)
    assert [event.to_version for event in world.all(RolledBack)] == [1]


def test_many_small_losses_are_seen(world: World) -> None:
    world.adaptive()
    world.rounds(2)
    for step, rate in enumerate((94, 89, 84)):
        world.assign(16 * 2**step)
        world.rounds(4, rate=rate)
    assert [event.to_version for event in world.all(RolledBack)] == [1]


def test_rollbacks_come_further_and_further_apart(world: World) -> None:
    world.adaptive()
    world.rounds(2)
    for _ in range(120):
        if world.tuning.adapt and world.core.state.runs["j"].trial_since is None:
            world.assign(32 + world.round)
        elif world.tuning.rollback_to is not None and world.core.state.runs["j"].shares["a"].microbatch != 8:
            world.assign(8)
        slow = world.core.state.runs["j"].shares["a"].microbatch != 8
        world.rounds(1, rate=60 if slow else 100)
    rounds = [event.round for event in world.all(RolledBack)]
    gaps = [later - earlier for earlier, later in pairwise(rounds)]
    assert len(gaps) >= 3
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 4 * world.settings.cooldown


def test_identical_shares_are_no_change(world: World) -> None:
    world.adaptive()
    world.rounds(2)
    world.assign()
    assert world.core.state.runs["j"].trial_since is None


# Cost


def test_cost_counts_adapting_agents_since_the_job_began(world: World) -> None:
    world.usage("node_selector", 10.0)
    world.usage("optimizer", 3.0)
    world.job()
    world.usage("node_selector", 10.4)
    world.usage("optimizer", 3.2)
    world.usage("recorder", 500.0)
    world.usage("recorder", 900.0)
    world.rounds(5)
    account = world.all(AdaptationCost)[-1]
    assert account.agent_seconds == pytest.approx(0.6)
    assert account.run_seconds == pytest.approx(30)
    assert account.share == pytest.approx(0.02)
    assert world.tuning.adapt


def test_a_restarted_agent_counts_from_zero(world: World) -> None:
    world.usage("optimizer", 10.0)
    world.job()
    world.usage("optimizer", 10.5)
    world.usage("optimizer", 0.25)
    world.rounds(5)
    assert world.all(AdaptationCost)[-1].agent_seconds == pytest.approx(0.75)


def test_too_dear_adaptation_rests_and_comes_back(world: World) -> None:
    world.usage("batch_controller", 0.0)
    world.job()
    world.usage("batch_controller", 3.0)
    world.rounds(5)
    assert world.all(AdaptationCost)[-1].share == pytest.approx(0.1)
    assert "rests" in world.all(AdaptationCost)[-1].reason
    assert not world.tuning.adapt
    assert "costs too much" in world.tuning.reason
    world.rounds(world.settings.cost_pause)
    assert world.tuning.adapt


def test_the_last_account_comes_with_the_end(world: World) -> None:
    world.usage("optimizer", 1.0)
    world.adaptive()
    world.usage("optimizer", 1.2)
    world.job(JobPhase.FINISHING)
    world.job(JobPhase.COMPLETED)
    assert [account.round for account in world.all(AdaptationCost)] == [3]
    assert world.all(AdaptationCost)[0].agent_seconds == pytest.approx(0.2)


def test_silence_about_usage_is_said(world: World) -> None:
    world.adaptive()
    world.job(JobPhase.FINISHING)
    assert "no adapting agent has reported" in world.all(AdaptationCost)[0].reason


# Restarts


def test_an_optimizer_without_memory_goes_on_from_its_last_word(world: World) -> None:
    world.adaptive()
    world.rounds(8)
    last, round_now = world.tuning, world.round
    for first in ("tuning", "job"):
        world.reborn(remembers=False)
        before = len(world.all(Tuning))
        if first == "tuning":
            world.give(last)
            world.job(round=round_now)
        else:
            world.job(round=round_now)
            world.give(last)
        world.rounds(1)
        assert world.tuning.phase == "adaptive"
        later = [tuning.version for tuning in world.all(Tuning)[before:] if tuning.version > 1]
        assert later == sorted(set(later))
        assert all(version > last.version for version in later)
        last, round_now = world.tuning, world.round


def test_state_goes_through_msgpack_unchanged(world: World) -> None:
    world.usage("optimizer", 1.0)
    world.adaptive()
    world.assign(16)
    world.rounds(2)
    world.validate(1.0)
    world.link("a", LinkQuality.POOR)
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(world.core.state), type=OptimizerState)
    assert copy == world.core.state


def test_effects_name_their_cause(world: World) -> None:
    world.adaptive()
    world.rounds(8)
    world.causes.clear()
    world.link("a", LinkQuality.POOR)
    assert world.causes == [f"x:1:{world.count}"]

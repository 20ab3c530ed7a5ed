"""The policy `proactive` by direct calls: plans ahead of a change, turns with and without them, and its regret."""

import random

import pytest
from optimizer_world import World

from agents.optimizer import OptimizerSettings, turns
from agents.optimizer.state import LookAhead, Plans, Turn
from schemas.decisions import ForesightJudged
from schemas.jobs import JobPhase
from schemas.network import LinkAhead, LinkForecast, LinkQuality
from schemas.training import ContributionReceived, Tuning

GOOD, POOR = LinkQuality.GOOD, LinkQuality.POOR
SIZE = 2_000_000


class Fleet(World):
    """Two nodes whose rounds take 6 s; `b` reduces, `a` uploads over a link that may change."""

    def __init__(self, policy: str = "proactive", **settings: float) -> None:
        super().__init__(**settings)
        self.heard = 0
        self.noise = random.Random(1)
        self.link("a", GOOD, None)
        self.adaptive(adaptation=policy)

    def forecast(self, *parts: tuple[float, LinkQuality, float | None], until: float = 60.0) -> None:
        """From so many seconds on a grade and a rate."""
        self.heard += 1
        ahead = tuple(
            LinkAhead(
                from_seconds=begin,
                quality=quality,
                latency_ms=20.0,
                latency_low_ms=10.0,
                latency_high_ms=40.0,
                loss=0.0,
                rate=rate,
            )
            for begin, quality, rate in parts
        )
        method = "recurring" if ahead else "none"
        self.give(
            LinkForecast(node="a", version=self.heard, method=method, until_seconds=until, ahead=ahead, reason="")  # type: ignore[arg-type]
        )

    def upload(self, rate: float, node: str = "a") -> None:
        """The open round's difference of a node comes in."""
        event = ContributionReceived(
            job="j", node="b", contributor=node, round=self.round + 1, size=SIZE, seconds=SIZE / rate
        )
        self.give(event)

    def look_ahead(self) -> None:
        """The open round is so far that the next one is planned."""
        timer = LookAhead(job="j")
        end, self.now = self.now, self.timers.pop(timer)
        self.give(timer)
        self.now = end

    def cycle(self, acting: float, back: float = 100.0) -> None:
        """A round whose link is foreseen to change: samples a second where the plan for it acts on that, and where not."""
        self.forecast((0.0, POOR if self.heard % 2 else GOOD, 1e6 if self.heard % 2 else 2e7))
        self.look_ahead()
        rate = acting if self.core.state.runs["j"].plans.acting else back
        self.upload(2e7 if self.heard % 2 else 1e6)
        self.close(rate * (1 + 0.03 * self.noise.uniform(-1, 1)))

    @property
    def planned(self) -> dict[str, LinkQuality]:
        """Links that others are told to plan with."""
        return {each.node: each.quality for each in self.tuning.foreseen}

    @property
    def regret(self) -> ForesightJudged:
        """The last word on it."""
        return self.all(ForesightJudged)[-1]


def acted(world: Fleet) -> list[bool]:
    """Whether forecasts were acted upon, turn by turn, as it was said at the end of each."""
    return [True, *(judged.acting for judged in world.all(ForesightJudged))]


def test_a_link_that_is_about_to_change_is_planned_with_before_it_does() -> None:
    world = Fleet()
    world.upload(2e7)
    world.close()
    world.forecast((0.0, GOOD, 2e7), (30.0, POOR, 1e6))
    world.look_ahead()
    assert world.planned == {}, "the round that is planned is over before the link changes"
    for _ in range(3):
        world.upload(2e7)
        world.close()
    world.look_ahead()
    assert world.planned == {"a": POOR}
    assert world.tuning.foreseen[0].rate == pytest.approx(1e6)
    assert "link of a is about to be poor" in world.tuning.reason
    assert world.tuning.max_factor == world.settings.reactive_factor, (
        "an event that may change a lot, like one that has come"
    )


def test_the_worst_of_the_time_in_which_uploads_are_under_way_counts() -> None:
    world = Fleet()
    world.upload(2e7)
    world.close()
    world.forecast((0.0, GOOD, 2e7), (10.0, POOR, 1e6), (11.0, GOOD, 2e7))
    world.look_ahead()
    assert world.planned == {"a": POOR}


def test_the_forecast_is_the_cause_of_what_is_done_for_it() -> None:
    world = Fleet()
    world.upload(2e7)
    world.close()
    world.forecast((0.0, POOR, 1e6))
    heard = f"x:1:{world.count}"
    world.look_ahead()
    assert isinstance(world.said[-1], Tuning)
    assert world.causes[-1] == heard


def test_what_was_never_measured_is_not_planned_with() -> None:
    world = Fleet()
    world.close()
    world.forecast((0.0, POOR, 1e6))
    world.look_ahead()
    assert world.planned == {}, "no upload was measured: nobody knows what the other plan would be"
    world.forecast()
    world.upload(2e7)
    world.close()
    world.forecast((0.0, POOR, None))
    world.look_ahead()
    assert world.planned == {}, "nothing was ever measured of it when it was poor"


def test_a_rate_that_was_measured_when_the_link_was_like_that_serves_as_forecast() -> None:
    world = Fleet()
    world.link("a", POOR)
    world.upload(1e6)
    world.link("a", GOOD, POOR)
    for _ in range(5):
        world.upload(2e7)
    world.close()
    world.forecast((0.0, POOR, None))
    world.look_ahead()
    assert world.tuning.foreseen[0].rate == pytest.approx(1e6)


@pytest.mark.parametrize("policy", ["off", "conservative", "reactive", "aggressive"])
def test_the_other_policies_heed_no_forecast(policy: str) -> None:
    world = Fleet(policy)
    world.upload(2e7)
    world.forecast((0.0, POOR, 1e6))
    world.close()
    assert LookAhead(job="j") not in world.timers
    assert not any(tuning.foreseen for tuning in world.all(Tuning))


def test_a_forecast_that_is_too_old_or_taken_back_is_none() -> None:
    world = Fleet()
    world.upload(2e7)
    world.close()
    world.forecast((0.0, POOR, 1e6), until=5.0)
    world.look_ahead()
    assert world.planned == {}
    world.forecast((0.0, POOR, 1e6))
    world.close()
    world.look_ahead()
    assert world.planned == {"a": POOR}
    world.forecast()
    world.close()
    world.look_ahead()
    assert world.planned == {}


@pytest.mark.parametrize("factor", [0.8, 0.95, 1.05, 1.2])
def test_the_regret_says_what_acting_on_forecasts_has_cost_against_not_acting(factor: float) -> None:
    world = Fleet()
    for _ in range(220):
        world.cycle(100.0 * factor)
    last = world.regret
    true = last.proactive_seconds * (1 - factor)
    assert (last.regret_seconds > 0) == (factor < 1)
    assert abs(last.regret_seconds - true) < 3 * last.error_seconds
    assert last.regret_seconds == pytest.approx(last.proactive_seconds - last.reactive_seconds, abs=0.01)
    assert ("lost" if factor < 1 else "gained") in last.reason


def test_what_loses_has_ever_fewer_turns_and_is_tried_again_all_the_same() -> None:
    world = Fleet()
    for _ in range(400):
        world.cycle(80.0)
    said = acted(world)
    assert said[:2] == [True, False]
    assert sum(said[4:]) <= (len(said) - 4) / 5, "a fifth of the time at most, once it is known to lose"
    assert any(said[4:]), "links may have become such that it gains"


def test_what_gains_has_most_of_the_turns_and_is_compared_all_the_same() -> None:
    world = Fleet()
    for _ in range(400):
        world.cycle(125.0)
    said = acted(world)
    assert sum(said[4:]) >= 0.8 * (len(said) - 4)
    assert not all(said[4:])


def test_it_acts_again_when_that_does_better_than_it_did() -> None:
    world = Fleet()
    for _ in range(200):
        world.cycle(80.0)
    assert world.regret.regret_seconds > 0
    for _ in range(1200):
        world.cycle(130.0)
    assert world.regret.regret_seconds < 0
    assert sum(acted(world)[-9:]) >= 7


def test_where_it_makes_no_difference_the_regret_is_within_its_error() -> None:
    world = Fleet()
    for _ in range(400):
        world.cycle(100.0)
    assert abs(world.regret.regret_seconds) < 2 * world.regret.error_seconds


def test_a_turn_without_its_plans_is_no_turn() -> None:
    world = Fleet()
    world.forecast()
    for _ in range(60):
        world.look_ahead()
        world.upload(2e7)
        world.close()
    assert world.core.state.runs["j"].plans.turns == []
    assert world.all(ForesightJudged) == []
    for _ in range(10):
        world.cycle(100.0)
    world.forecast()
    for _ in range(60):
        world.look_ahead()
        world.upload(2e7)
        world.close()
    assert len(world.core.state.runs["j"].plans.turns) <= 2, "the one in which something was foreseen, and the next"


def test_turns_last_for_whole_periods_and_begin_to_count_once_the_last_one_has_worn_off() -> None:
    settings = OptimizerSettings(foresight_seconds=60.0)
    plans = Plans(turns=[Turn(acting=True, after=0, useful=1.0, seconds=79.0)])
    assert turns.over(plans, 0.0, settings)
    assert not turns.over(plans, 40.0, settings), "two periods"
    assert turns.over(plans, 86_400.0, settings), "nobody waits for a day"
    world = Fleet()
    for _ in range(3 + world.settings.foresight_settle):
        world.cycle(100.0)
    turn = world.core.state.runs["j"].plans.turns[-1]
    assert turn.seconds == pytest.approx(6.0 * (world.round - turn.after - world.settings.foresight_settle))


def test_late_samples_count_as_the_average_counts_them_and_rounds_by_the_time_between_their_ends() -> None:
    world = Fleet()
    for _ in range(12):
        world.cycle(100.0)
    plans = world.core.state.runs["j"].plans
    before, counted = plans.acted, plans.turns[-1].seconds
    world.now += 4.0  # between the last closing and this round's opening
    world.close()
    assert plans.acted - before == pytest.approx(10.0)
    assert plans.turns[-1].seconds - counted == pytest.approx(10.0)


def test_a_job_s_end_tells_the_regret_that_was_not_told_yet() -> None:
    world = Fleet()
    for _ in range(70):
        world.cycle(120.0)
    told = len(world.all(ForesightJudged))
    world.job(JobPhase.FINISHING)
    assert len(world.all(ForesightJudged)) == told + 1
    assert world.regret.rounds == world.core.state.runs["j"].plans.judged


def test_a_restart_forgets_no_turn() -> None:
    world = Fleet()
    for _ in range(30):
        world.cycle(120.0)
    before = world.core.state.runs["j"].plans
    world.reborn(remembers=True)
    assert world.core.state.runs["j"].plans == before
    world.cycle(120.0)
    assert world.core.state.runs["j"].plans.judged == before.judged + 1

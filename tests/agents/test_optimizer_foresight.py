"""The policy `proactive` by direct calls: plans ahead of a change, its regret, stepping back and trying again."""

import pytest
from optimizer_world import World

from agents.optimizer.foresight import cost
from agents.optimizer.state import Bet, LookAhead, Wager
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

    def cycle(self, rate: float, *parts: tuple[float, LinkQuality, float | None]) -> None:
        """A round: a forecast, the plan for the next one, an upload, the closing."""
        if parts:
            self.forecast(*parts)
        self.look_ahead()
        self.upload(rate)
        self.close()

    @property
    def planned(self) -> dict[str, LinkQuality]:
        """Links that others are told to plan with."""
        return {each.node: each.quality for each in self.tuning.foreseen}

    @property
    def regret(self) -> ForesightJudged:
        """The last word on it."""
        return self.all(ForesightJudged)[-1]


def liar(world: Fleet, rounds: int) -> None:
    """Rounds whose forecasts say poor while the link stays as good as it was."""
    for _ in range(rounds):
        world.cycle(2e7, (0.0, POOR, 2e5))


def prophet(world: Fleet, rounds: int) -> None:
    """Rounds in which a link is by turns as it wasn't before, and forecasts know."""
    for _ in range(rounds):
        rate = 1e6 if world.round % 8 < 4 else 2e7
        then = 1e6 if (world.round + 1) % 8 < 4 else 2e7
        world.cycle(rate, (0.0, GOOD, then))


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


def test_what_could_not_be_judged_is_not_done() -> None:
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


def test_forecasts_that_come_true_gain_and_are_told_so() -> None:
    world = Fleet()
    prophet(world, 24)
    assert world.regret.acting
    assert world.regret.regret_seconds < 0
    assert world.regret.regret_seconds == pytest.approx(
        world.regret.proactive_seconds - world.regret.reactive_seconds, abs=0.01
    )
    assert "gained" in world.regret.reason


def test_forecasts_that_lie_are_given_up_with_a_bounded_loss_and_tried_again_ever_later() -> None:
    world = Fleet()
    prophet(world, 2)
    liar(world, 80)
    steps = [judged for judged in world.all(ForesightJudged) if "reactive until" in judged.reason]
    assert "steps back" in steps[0].reason
    assert world.planned == {}
    pauses = [int(judged.reason.split("until round ")[1].split(":")[0]) - judged.round for judged in steps]
    assert pauses == [10, 20, 40, 80][: len(pauses)]
    assert len(pauses) >= 3
    assert not world.regret.acting
    acted = [tuning for tuning in world.all(Tuning) if tuning.foreseen]
    first = steps[0].round
    assert acted[-1].version < world.tuning.version
    assert steps[0].regret_seconds <= world.settings.foresight_limit * 6 * first + 6.0, "a round beyond the limit at most"


def test_it_acts_again_when_forecasts_would_have_done_better() -> None:
    world = Fleet()
    liar(world, 12)
    assert not world.regret.acting
    prophet(world, 40)
    assert world.regret.acting
    back = next(judged for judged in world.all(ForesightJudged) if "acts on forecasts again" in judged.reason)
    assert back.round >= 13


def test_a_job_s_end_tells_the_regret_that_was_not_told_yet() -> None:
    world = Fleet()
    prophet(world, 9)
    told = len(world.all(ForesightJudged))
    judged = world.core.state.runs["j"].plans.judged
    world.job(JobPhase.FINISHING)
    assert len(world.all(ForesightJudged)) == told + (judged % world.settings.foresight_every > 0)
    assert world.regret.rounds == judged


def test_a_plan_pays_for_what_it_reserves_and_all_pay_for_what_lacks() -> None:
    bet = Bet(reactive=1e6, proactive=4e6, size=4_000_000, seconds=2.0)  # reserves 4 s and 1 s
    wager = Wager(round=1, bets={"a": bet})
    assert cost(wager, 4, 10.0, proactive=False) == pytest.approx(4.0 / 4)
    assert cost(wager, 4, 10.0, proactive=True) == pytest.approx(1.0 + 1.0 / 4)


def test_an_upload_that_never_came_counts_as_a_round() -> None:
    world = Fleet()
    for _ in range(4):
        world.upload(2e7)
        world.close()
    world.forecast((0.0, GOOD, 2e5))
    world.look_ahead()
    world.close()
    run = world.core.state.runs["j"]
    assert run.plans.wagers[0].round == world.round + 1
    world.close(missing=("a",))
    assert run.plans.judged == 1
    assert run.plans.proactive_seconds < run.plans.reactive_seconds


def test_a_restart_forgets_no_plan() -> None:
    world = Fleet()
    prophet(world, 7)
    before = world.core.state.runs["j"].plans
    world.reborn(remembers=True)
    assert world.core.state.runs["j"].plans == before
    prophet(world, 3)
    assert world.regret.rounds >= 5

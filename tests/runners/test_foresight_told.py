"""What forecasts did to a job, where people look: the live view, `shoal why`, the report."""

import pytest

from runners.causes import chains_about
from runners.report import TYPES
from runners.report_adaptations import adaptations
from runners.report_timeline import Timeline
from runners.view.words import said_by
from schemas.decisions import ForesightJudged
from schemas.network import LinkForecast, LinkQuality
from schemas.training import Foreseen, Tuning
from schemas.wire import Message, seal


def sealed(message: Message, number: int, cause: int = 0) -> Message:
    return seal(message, id=str(number), cause=str(cause) if cause else "", at=float(number), source="optimizer")


def judged(regret: float, *, acting: bool) -> ForesightJudged:
    return ForesightJudged(
        job="j",
        round=9,
        rounds=5,
        proactive_seconds=10.0 + regret,
        reactive_seconds=10.0,
        regret_seconds=regret,
        acting=acting,
        reason="so it was",
    )


def tuning(version: int, foreseen: tuple[Foreseen, ...] = ()) -> Tuning:
    return Tuning(
        job="j",
        version=version,
        phase="adaptive",
        policy="proactive",
        adapt=True,
        max_factor=2.0,
        foreseen=foreseen,
        reason="the link of a is about to be poor",
    )


@pytest.fixture
def story() -> list[Message]:
    poor = (Foreseen(node="a", quality=LinkQuality.POOR, rate=1e6),)
    return [
        sealed(tuning(1), 1),
        sealed(LinkForecast(node="a", version=1, method="recurring", reason="poor in 20 s"), 2),
        sealed(tuning(2, poor), 3, cause=2),
        sealed(judged(-2.5, acting=True), 4),
        sealed(judged(3.5, acting=False), 5),
        sealed(tuning(3), 6),
    ]


def test_the_regret_is_a_line_in_the_live_view() -> None:
    said = said_by(judged(-2.5, acting=True))
    assert said is not None
    assert (said.who, said.text, said.fault) == ("optimizer", "so it was", False)


def test_a_plan_s_cause_is_the_forecast_and_both_are_told_why(story: list[Message]) -> None:
    chains = chains_about(story, "j", 9)
    assert [event.id for event in chains[2]] == ["4"]
    assert [type(event) for event in chains[3]] == [Tuning, LinkForecast]
    assert [event.id for chain in chains_about(story, "a", 9) for event in chain] == ["2"]


def test_the_report_tells_plans_and_regret(story: list[Message]) -> None:
    assert ForesightJudged in TYPES
    assert [each.what for each in adaptations(Timeline("j", story))] == [
        "phase adaptive, policy proactive",
        "link of a planned as poor",
        "regret of proactive -2.5 s in 5 rounds",
        "regret of proactive +3.5 s in 5 rounds; next, a turn of doing as reactive does",
        "link of a planned as measured",
    ]

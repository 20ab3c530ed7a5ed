"""A job whose rounds may have another length ends when the work that was asked for is done, or its target is reached."""

from typing import Any

import msgspec
import pytest

from agents.job_desk import JobDesk
from schemas.jobs import JobPhase
from schemas.training import RoundClosed
from tests.agents.test_job_desk import a_desk, a_round, running, states, tell


def long_round(number: int, *work: tuple[int, int], late: int = 0) -> RoundClosed:
    """A round in which the nodes made so many steps of so many samples."""
    closed = a_round("j", number, *(f"n{place}" for place in range(len(work))))
    parts = tuple(
        msgspec.structs.replace(part, steps=steps, samples=steps * size, late=late)
        for part, (steps, size) in zip(closed.contributions, work, strict=True)
    )
    return msgspec.structs.replace(closed, contributions=parts)


def phase(desk: JobDesk) -> JobPhase:
    return desk.state.jobs["j"].phase


def a_job(**fields: Any) -> JobDesk:
    desk = a_desk()
    running(desk, **{"batch": "goodput", "rounds": 8, "local_steps": 10, "microbatch": 8, "target_loss": 0.1} | fields)
    return desk


def test_four_times_the_work_in_a_round_takes_a_quarter_of_the_rounds() -> None:
    desk = a_job()
    tell(desk, long_round(1, (40, 8), (10, 8)))
    assert phase(desk) is JobPhase.RUNNING
    (state,) = states(tell(desk, long_round(2, (40, 8), (10, 8))))
    assert state.state is JobPhase.FINISHING
    assert "2 rounds had as many steps and samples as 8 rounds of 10 steps of 8" in state.reason


@pytest.mark.parametrize("work", [(10, 32), (40, 2)], ids=["larger steps", "smaller steps"])
def test_steps_and_samples_must_both_be_done(work: tuple[int, int]) -> None:
    desk = a_job()
    for number in (1, 2):
        tell(desk, long_round(number, work))
    assert phase(desk) is JobPhase.RUNNING


def test_late_work_counts_for_its_own_round_only() -> None:
    desk = a_job()
    for number in (1, 2):
        tell(desk, long_round(number, (40, 8), late=1))
    assert phase(desk) is JobPhase.RUNNING


@pytest.mark.parametrize(
    "fields", [{"target_loss": None}, {"batch": "hybrid", "target_loss": None}, {"batch": "fixed"}, {"sync": "step"}]
)
def test_other_jobs_make_all_their_rounds(fields: dict[str, Any]) -> None:
    desk = a_job(**fields)
    for number in range(1, 8):
        tell(desk, long_round(number, (40, 8)))
        assert phase(desk) is JobPhase.RUNNING
    tell(desk, long_round(8, (40, 8)))
    assert phase(desk) is JobPhase.FINISHING


def test_rounds_as_asked_for_are_as_many() -> None:
    desk = a_job()
    for number in range(1, 8):
        tell(desk, long_round(number, (10, 8), (3, 8)))
    assert phase(desk) is JobPhase.RUNNING
    tell(desk, long_round(8, (10, 8), (3, 8)))
    assert phase(desk) is JobPhase.FINISHING


def test_with_a_target_loss_shorter_rounds_are_as_many_more_up_to_the_work_asked_for() -> None:
    desk = a_job(batch="hybrid", target_loss=0.1, rounds=2)
    assert desk.state.jobs["j"].as_state().rounds == 20, "of a step at least"
    for number in range(1, 5):
        tell(desk, long_round(number, (4, 8), (2, 8)))
        assert phase(desk) is JobPhase.RUNNING, number
    (state,) = states(tell(desk, long_round(5, (4, 8))))
    assert state.state is JobPhase.FINISHING
    assert "5 rounds had as many samples as 2 rounds of 10 steps of 8" in state.reason


def test_a_desk_without_memory_counts_short_rounds_as_a_step_each() -> None:
    desk = a_job(batch="hybrid", target_loss=0.1, rounds=2)
    tell(desk, long_round(1, (4, 8)))
    state = msgspec.structs.replace(desk.state.jobs["j"].as_state(), id="desk:1:99", round=10)
    again = a_desk()
    tell(again, state)
    assert again.state.jobs["j"].done.samples == pytest.approx(1.0)

"""How often a job validates: by what a validation takes, and by what is left to the target."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.base import StartWork
from agents.trainer import Trainer, TrainerSettings, works
from agents.trainer.validating import NEAR, Seen, Validations
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import Roster, Validated
from tests.agents.test_trainer import NOW, closed, tell

SHARE = 0.05


def seen(*losses: float, seconds: float = 0.2, apart: float = 10.0) -> Validations:
    made = Validations()
    for number, loss in enumerate(losses):
        made.note(number, Seen(number * apart, loss, seconds))
    return made


def test_the_first_is_due_and_the_next_once_it_takes_its_part_of_the_time() -> None:
    assert Validations().due(0.0, SHARE, None)
    made = seen(3.0, seconds=0.2)
    assert made.pause(SHARE, None) == pytest.approx(3.8)
    assert not made.due(3.7, SHARE, None)
    assert made.due(3.9, SHARE, None)


def test_one_that_had_a_cold_cache_puts_nothing_off() -> None:
    made = seen(3.0, seconds=5.0)
    made.note(2, Seen(10.0, 2.9, 0.1))
    assert made.pause(SHARE, None) == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("target", "seconds"),
    [
        (2.8, 5.0),  # half of what is left at 0.01 a second
        (2.0, 19.0),  # far away yet
        (2.899, 4.0),  # a fifth of the time at most
    ],
)
def test_near_the_target_it_comes_after_half_of_what_is_left(target: float, seconds: float) -> None:
    assert seen(3.0, 2.9, seconds=1.0).pause(SHARE, target) == pytest.approx(seconds)


def test_a_loss_that_does_not_fall_hurries_nobody() -> None:
    for stuck in (seen(2.9, 2.9), seen(2.9, 3.0), seen(2.9)):
        assert stuck.pause(SHARE, 2.8) == pytest.approx(3.8)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.01, 5), st.floats(0.01, 5)), min_size=1, max_size=6),
    st.floats(0, 10),
    st.floats(0.01, 1),
)
def test_it_never_takes_more_than_its_part(history: list[tuple[float, float, float]], target: float, share: float) -> None:
    """The pause over the time that the last ones took, whatever their losses."""
    made, at = Validations(), 0.0
    for loss, seconds, apart in history:
        at += apart
        made.note(1, Seen(at, loss, seconds))
    cost = min(seconds for _, seconds, _ in history[-4:])
    least = cost * (1 / max(share, NEAR) - 1)
    assert not made.due(at + 0.999 * least - 1e-6, share, target)


def a_state(version: int, phase: JobPhase, round_: int, **fields: Any) -> JobState:
    request = JobRequest(kind="train", workload="m:w", rounds=5, **fields)
    return JobState(
        id=f"desk:1:{version}",
        job="j",
        version=version,
        state=phase,
        reason="r",
        round=round_,
        rounds=5,
        request=request,
        submitted_at=1.0,
    )


def a_trainer(**fields: Any) -> Trainer:
    trainer = Trainer(TrainerSettings(), random.Random(1), job="j", node="a")
    tell(trainer, works.ModelBuilt(digest="0", parameters=10, device="cpu"))
    tell(trainer, a_state(1, JobPhase.RUNNING, 0, **fields))
    return trainer


def validated_rounds(trainer: Trainer, seconds: float) -> list[int]:
    """The rounds that a trainer validates when all follow each other at once."""
    found = []
    for number in range(1, 6):
        tell(trainer, closed(number))
        effects = tell(trainer, works.Applied(version=number, digest=str(number), seconds=0.1))
        for effect in effects:
            if isinstance(effect, StartWork) and isinstance(effect.work, works.Validate):
                found.append(effect.work.round)
                tell(trainer, works.ValidationDone(round=number, loss=1.0, seconds=seconds))
                tell(
                    trainer,
                    Validated(id=f"trainer/a:1:{number}", job="j", node="a", round=number, loss=1.0, seconds=seconds),
                )
    return found


def test_the_last_round_is_validated_whatever_it_takes() -> None:
    assert validated_rounds(a_trainer(), seconds=100.0) == [1, 5]


def test_a_round_that_turns_out_to_be_the_last_is_validated_once() -> None:
    roster = Roster(id="sel:1", job="j", version=1, nodes=("a",), reducers=("a",), quorum=1, reason="r")
    for share, expected in ((SHARE, [1, 2]), (1.0, [1, 2])):  # the second one as it closed
        trainer = a_trainer(validate_share=share)
        tell(trainer, roster)
        asked = []
        for number in (1, 2):
            effects = tell(trainer, closed(number))
            effects += tell(trainer, works.Applied(version=number, digest=str(number), seconds=0.1))
            if number == 2:
                effects += tell(trainer, a_state(2, JobPhase.FINISHING, 2, validate_share=share))
            asked += [e.work.round for e in effects if isinstance(e, StartWork) and isinstance(e.work, works.Validate)]
            tell(trainer, works.ValidationDone(round=number, loss=1.0, seconds=100.0))
            tell(trainer, Validated(id=f"t:{number}", job="j", node="a", round=number, loss=1.0, seconds=100.0))
        assert asked == expected


def test_cheap_ones_and_those_that_were_asked_for_all_come() -> None:
    assert validated_rounds(a_trainer(), seconds=0.0) == [1, 2, 3, 4, 5]
    assert validated_rounds(a_trainer(validate_share=1.0), seconds=100.0) == [1, 2, 3, 4, 5]
    assert validated_rounds(a_trainer(validate_share=1.0, validate_every=2), seconds=100.0) == [2, 4, 5]


def test_none_is_asked_for_beside_another() -> None:
    trainer = a_trainer()
    asked = []
    for number in (1, 2):
        tell(trainer, closed(number))
        effects = tell(trainer, works.Applied(version=number, digest=str(number), seconds=0.1))
        asked += [e for e in effects if isinstance(e, StartWork) and isinstance(e.work, works.Validate)]
    assert len(asked) == 1


def test_a_node_that_comes_to_reduce_knows_what_others_took() -> None:
    trainer = a_trainer()
    tell(trainer, Validated(id="trainer/b:1:1", job="j", node="b", round=1, loss=2.0, seconds=50.0))
    assert validated_rounds(trainer, seconds=50.0) == [5]
    assert trainer.state.validations.seen[0] == Seen(NOW, 2.0, 50.0)

"""A trainer by direct calls, where the order of what it hears matters."""

import random
from typing import Any

import msgspec
import pytest

from agents.base import Effect, Publish, StartWork
from agents.inputs import Woken
from agents.trainer import Trainer, TrainerSettings, works
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import Assignment, Average, ContributionOffered, Roster, RoundClosed, RoundOpened, Share

NOW = 1_000.0


def tell(trainer: Trainer, event: Any) -> list[Effect]:
    effects = trainer.handle(event, NOW)
    trainer.check()
    return effects


def asked(effects: list[Effect], kind: type[Any]) -> list[Any]:
    return [effect.work for effect in effects if isinstance(effect, StartWork) and isinstance(effect.work, kind)]


def a_state(phase: JobPhase, round_: int, version: int) -> JobState:
    request = JobRequest(kind="train", workload="m:w", rounds=2)
    return JobState(
        id=f"desk:1:{version}",
        job="j",
        version=version,
        state=phase,
        reason="r",
        round=round_,
        rounds=2,
        request=request,
        submitted_at=1.0,
    )


def opened(node: str, digest: str = "0", shards: tuple[str, ...] = ()) -> RoundOpened:
    return RoundOpened(
        id=f"reducer/{node}:1:0", job="j", node=node, round=1, term=0, deadline_seconds=3.0, expected=("a", "b"),
        digest=digest, reason="r", shards=shards,
    )  # fmt: skip


def closed(round_: int) -> RoundClosed:
    return RoundClosed(
        id=f"reducer/a:1:{round_}",
        job="j",
        round=round_,
        term=0,
        reducer="a",
        next_reducer="a",
        contributions=(),
        missing=(),
        average=Average(key=str(round_), size=1, digest="d", holders=("a",)),
        samples=1,
        loss=1.0,
        seconds=1.0,
        on_time=True,
        reason="r",
    )


def test_the_final_model_has_the_last_round_in_it_although_the_desk_is_heard_first() -> None:
    trainer = Trainer(TrainerSettings(), random.Random(1), job="j", node="a")
    tell(trainer, Woken(incarnation=1, resumed=False, at=NOW))
    tell(trainer, works.ModelBuilt(digest="0", parameters=10, device="cpu"))
    tell(trainer, a_state(JobPhase.RUNNING, 0, 1))
    tell(trainer, Roster(id="sel:1", job="j", version=1, nodes=("a",), reducers=("a",), quorum=1, reason="r"))
    tell(trainer, opened("a"))
    assert asked(tell(trainer, closed(1)), works.ApplyAverage)
    tell(trainer, works.Applied(version=1, digest="1", seconds=0.1))
    assert not asked(tell(trainer, a_state(JobPhase.FINISHING, 2, 2)), works.StoreAnchor)
    assert asked(tell(trainer, closed(2)), works.ApplyAverage)
    stored = asked(tell(trainer, works.Applied(version=2, digest="2", seconds=0.1)), works.StoreAnchor)
    assert [(work.round, work.final) for work in stored] == [(2, True)]


def enrol(trainer: Trainer) -> None:
    """Tell it of a roster of two, and what both are to do."""
    tell(trainer, Roster(id="sel:1", job="j", version=1, nodes=("a", "b"), reducers=("b", "a"), quorum=1, reason="r"))
    share = Share(microbatch=4, local_steps=3, encoding="int8")
    tell(
        trainer,
        Assignment(
            id="ctl:1", job="j", version=1, roster_version=1, shares={"a": share, "b": share}, average_encoding="int8",
            round_seconds=1.0, deadline_seconds=3.0, strategy="hybrid", reason="r",
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("opener", "sent"), [("b", ["1"]), ("a", [])])
def test_a_difference_goes_on_its_way_unless_this_node_averages_it(opener: str, sent: list[str]) -> None:
    trainer = Trainer(TrainerSettings(), random.Random(1), job="j", node="a")
    tell(trainer, Woken(incarnation=1, resumed=False, at=NOW))
    tell(trainer, works.ModelBuilt(digest="0", parameters=10, device="cpu"))
    tell(trainer, a_state(JobPhase.RUNNING, 0, 1))
    enrol(trainer)
    assert asked(tell(trainer, opened(opener)), works.LocalRound)
    done = works.LocalRoundDone(
        round=1, base_digest="0", samples=12, steps=3, microbatch=4, loss=1.0, seconds=1.0, encoding="int8", key="1",
        size=10, digest="d",
    )  # fmt: skip
    effects = tell(trainer, done)
    assert [work.name for work in asked(effects, works.Stream)] == sent
    offers = [e.message for e in effects if isinstance(e, Publish) and isinstance(e.message, ContributionOffered)]
    assert [offer.round for offer in offers] == [1], "whoever takes over from the reducer must know of it"


@pytest.mark.parametrize(
    ("shards", "ahead"),
    [
        (("b", "a", "c", "b", "a", "c", "b", "a"), (2, 3, 5, 6, 0)),  # from its own place on
        (("b",) * 8, tuple(range(8))),
        (("a",) * 8, ()),
        ((), ()),  # nobody has said who reduces what
    ],
)
def test_pieces_that_others_reduce_may_be_sent_while_the_next_are_made(
    shards: tuple[str, ...], ahead: tuple[int, ...]
) -> None:
    trainer = Trainer(TrainerSettings(), random.Random(1), job="j", node="a")
    tell(trainer, Woken(incarnation=1, resumed=False, at=NOW))
    tell(trainer, works.ModelBuilt(digest="0", parameters=5_000_000, device="cpu"))
    state = a_state(JobPhase.RUNNING, 0, 1)
    tell(trainer, msgspec.structs.replace(state, request=msgspec.structs.replace(state.request, reducers=0)))
    enrol(trainer)
    (work,) = asked(tell(trainer, opened("b", shards=shards)), works.LocalRound)
    assert work.ahead == ahead

"""Who carries out the healer's orders on a node: its agent, the batch controller, the job's process."""

import random

import pytest
from test_batch_controller import EQUAL, Fleet
from test_node_agent import NOW, a_roster, a_state, at_work, exited, said, tell, works

from agents.base import StartWork, StopWork
from agents.inputs import ProbeReturned
from agents.trainer import Trainer, TrainerSettings
from agents.trainer.works import FreeMemory
from schemas.healing import HealingOrdered, Remedy
from schemas.nodes import WorkEnded, WorkFailed, WorkStarted


def order(remedy: Remedy, node: str = "me", job: str | None = "j") -> HealingOrdered:
    """The healer's word."""
    return HealingOrdered(
        node=node,
        job=job,
        fault="stalled",
        remedy=remedy,
        ticket=1,
        judged_after=60,
        chance=0.5,
        reason="it takes no steps",
    )


@pytest.mark.parametrize("job", ["j", None])
def test_a_process_is_started_anew_and_that_is_no_failure(job: str | None) -> None:
    node = at_work()
    (stop,) = works(tell(node, order("restart", job=job), NOW + 1))
    assert isinstance(stop, StopWork)
    assert works(tell(node, order("restart", job=job), NOW + 2)) == [], "once is enough"
    effects = tell(node, exited(0), NOW + 3)
    assert said(effects, WorkEnded)
    assert not said(effects, WorkFailed)
    assert said(effects, WorkStarted)[0].attempt == 2
    assert node.state.jobs["j"].failures == 0


def test_the_last_process_of_a_job_holds_what_was_learnt_and_stays() -> None:
    node = at_work()
    tell(node, a_roster("me", version=2))
    assert works(tell(node, order("restart"), NOW + 1)) == []


def test_a_node_that_is_cut_off_or_meant_otherwise_does_nothing() -> None:
    node = at_work()
    assert works(tell(node, order("restart", job="other"), NOW + 1)) == []
    assert works(tell(node, order("move"), NOW + 1)) == []
    tell(node, ProbeReturned(sequence=1, rtt=0.02), NOW + 1)
    assert works(tell(node, order("restart"), NOW + 60)) == [], "an order of before it was cut off"
    tell(node, a_state(version=3), NOW + 60)


def test_a_microbatch_is_halved_and_stays_under_that() -> None:
    fleet = Fleet(EQUAL, local_steps=40, microbatch=16).begin()
    fleet.train(5)
    before = fleet.share("b").microbatch
    told = len(fleet.said)
    fleet.tell(order("shrink", "b"))
    fleet.wait(1.0)
    assert len(fleet.said) > told
    assert fleet.share("b").microbatch == before // 2
    fleet.train(5)
    assert fleet.share("b").microbatch <= before // 2


def test_a_process_gives_memory_back() -> None:
    trainer = Trainer(TrainerSettings(), random.Random(1), job="j", node="me")
    (effect,) = trainer.handle(order("free"), NOW)
    assert isinstance(effect, StartWork)
    assert isinstance(effect.work, FreeMemory)
    assert trainer.handle(order("free", "other"), NOW) == []
    assert trainer.handle(order("restart"), NOW) == []

"""What versions of an asynchronous job say together, and rounds alone."""

import math

from agents.optimizer.blocks import BLOCK, measure
from agents.optimizer.state import Run
from schemas.jobs import JobPhase, SyncMode
from schemas.training import Average, RoundClosed


def a_run(sync: SyncMode) -> Run:
    return Run(policy="reactive", phase="adaptive", state=JobPhase.RUNNING, state_version=1, rounds=99, sync=sync)


def closed(number: int, samples: int, seconds: float, loss: float) -> RoundClosed:
    average = Average(key="k", size=1, digest="d", holders=("a",))
    return RoundClosed(
        job="j", round=number, term=0, reducer="a", next_reducer="a", contributions=(), missing=(), average=average,
        samples=samples, loss=loss, seconds=seconds, on_time=True, reason="",
    )  # fmt: skip


def test_versions_are_measured_together() -> None:
    run = a_run("async")
    told = [measure(run, closed(number, 100 if number % 2 else 20, 0.5, float(number % 2))) for number in range(1, 9)]
    seen = [each for each in told if each is not None]
    assert [each.round for each in seen] == [BLOCK, 2 * BLOCK]
    assert {(each.rate, each.seconds, round(each.loss, 6)) for each in seen} == {(120.0, 2.0, round(200 / 240, 6))}


def test_rounds_are_measured_one_by_one_and_what_is_no_measure_is_left_out() -> None:
    run = a_run("round")
    one = measure(run, closed(1, 100, 2.0, 0.5))
    assert one is not None
    assert (one.round, one.rate, one.loss, one.seconds) == (1, 50.0, 0.5, 2.0)
    assert measure(run, closed(2, 100, 2.0, math.nan)) is None
    assert measure(run, closed(3, 100, 0.0, 1.0)) is None
    assert not run.block

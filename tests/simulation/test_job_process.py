"""The simulated job process: what is stopped leaves nothing behind, as with real ones."""

import heapq
import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from agents.node.works import TrainingWork
from agents.trainer import works
from runners.simulation.clocks import SkewedClock
from runners.simulation.job_process import JobProcess
from runners.simulation.machines import Machine
from schemas.jobs import JobRequest

STEPS = works.LocalRound(round=1, microbatch=4, steps=20, encoding="int8", streams=1)


class Clock:
    """Virtual time, and a fleet of no agents."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = itertools.count()

    def at(self, when: float, do: Callable[[Any], None], what: Any = None) -> None:
        heapq.heappush(self._heap, (when, next(self._count), do, what))

    def run(self) -> None:
        while self._heap:
            self.now, _, do, what = heapq.heappop(self._heap)
            do(what)


def a_process(clock: Clock, **asked: Any) -> JobProcess:
    silent = SimpleNamespace(begin=lambda: None, post=lambda result: None, endpoint=SimpleNamespace(paused=0.0))
    fleet = SimpleNamespace(network=clock, participant=lambda *what: silent)
    machine = Machine("a", random.Random(1), SkewedClock(), 0.02, 0.0, 20e6, 0.01)
    request = JobRequest(kind="train", workload="m:w", **asked)
    work = cast(TrainingWork, SimpleNamespace(job="j", request=request))
    return JobProcess(cast(Any, fleet), machine, work, lambda code: None)


def test_a_round_that_is_stopped_leaves_no_difference_and_one_that_ends_leaves_one() -> None:
    clock = Clock()
    process, posted = a_process(clock), []
    process.start("steps", process._trainer_work, STEPS, posted.append)
    process.stop("steps")
    clock.run()
    assert posted == []
    assert process.deltas == set()
    process.start("steps", process._trainer_work, STEPS, posted.append)
    clock.run()
    assert [result.key for result in posted] == ["1"]
    assert process.deltas == {"1"}

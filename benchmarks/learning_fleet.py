"""A simulated fleet that learns for real: virtual time and simulated links, but real samples, gradients and differences.

The cores are the product's. Only a job's process is another: its local steps are those of `benchmarks.small_model`, its
differences are averaged with the weights that the round lists, and the norms of all are told as real processes tell them. A
difference is taken from the anchor that a node holds when its steps begin; tensors travel as if the model were larger
(`machines.PARAMETERS`), and encodings cost no accuracy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from agents.inputs import Result
from agents.reducer import works as reducing
from agents.trainer import works as training
from benchmarks.small_model import Local, Optimizer, Problem, Vector
from runners.simulation.job_process import JobProcess
from runners.simulation.machines import Machine

Finish = Callable[[float, Result | None], None]
KEPT = 64  # differences of a node that are remembered: more than a round may be late


@dataclass
class Course:
    """What a training has come to: (seconds, version, held-out loss) of each anchor, the seconds virtual ones from its
    first step on."""

    problem: Problem
    optimizer: Optimizer
    seed: int
    begun: float | None = None
    seen: list[tuple[float, int, float]] = field(default_factory=list)
    averages: dict[str, Vector] = field(default_factory=dict)
    samples: int = 0

    def process(self, *arguments: Any) -> JobProcess:
        """A job's process that takes part; what `World` is to be given."""
        return LearningProcess(self, *arguments)

    def note(self, now: float, version: int, anchor: Vector) -> None:
        """A node has the anchor of a version; the first one that has it counts."""
        if not self.seen or version > self.seen[-1][1]:
            self.seen.append((now - (self.begun or 0.0), version, self.problem.held_out(anchor)))

    def seconds_to(self, loss: float, over: int = 3) -> float | None:
        """Seconds until the mean of the last few anchors' losses was that; None if it never was."""
        for end in range(over, len(self.seen) + 1):
            if sum(each[2] for each in self.seen[end - over : end]) / over <= loss:
                return self.seen[end - 1][0]
        return None


class LearningProcess(JobProcess):
    """A job's process with a real, small model."""

    def __init__(self, course: Course, *arguments: Any) -> None:
        self.course = course
        self.anchor = course.problem.start(course.seed)
        self.differences: dict[str, Vector] = {}
        self.gathered: dict[tuple[str, int], Vector] = {}
        super().__init__(*arguments)
        self.local = Local(course.optimizer, hash_of(course.seed, self.machine.name))

    def _local_round(self, work: training.LocalRound, finish: Finish) -> None:
        if self.course.begun is None:
            self.course.begun = self.fleet.network.now
        difference, loss = self.course.problem.steps(self.anchor, self.local, work.steps, work.microbatch)
        self.course.samples += work.steps * work.microbatch
        self._keep(work.round, difference)

        def done(seconds: float, result: Result | None) -> None:
            finish(seconds, msgspec.structs.replace(result, loss=loss) if result is not None else None)

        super()._local_round(work, done)

    def _keep(self, round_: int, difference: Vector) -> None:
        self.differences[str(round_)] = difference
        while len(self.differences) > KEPT:
            del self.differences[next(iter(self.differences))]

    def _move(self, anchor: Vector) -> None:
        """The anchor is another one."""
        self.anchor = anchor

    def _collect(self, work: reducing.Collect, finish: Finish) -> None:
        holder = self.holder((work.contributor,), lambda process: work.key in process.deltas)
        if isinstance(holder, LearningProcess):
            self.gathered[work.contributor, work.round] = holder.differences[work.key]
        super()._collect(work, finish)

    def _reduce(self, work: reducing.Reduce, finish: Finish) -> None:
        parts = [(part, self.gathered.pop((part.node, part.round))) for part in work.parts]
        average = np.sum([part.weight * difference for part, difference in parts], axis=0)
        treated = tuple(
            reducing.Treated(node=part.node, round=part.round, weight=part.weight, norm=float(np.linalg.norm(difference)))
            for part, difference in parts
        )

        def done(seconds: float, result: Result | None) -> None:
            if isinstance(result, reducing.Reduced):
                self.course.averages[result.average.digest] = work.extent * average
                told = msgspec.structs.replace(result.average, norm=float(np.linalg.norm(average)))
                result = msgspec.structs.replace(result, treated=treated, average=told)
            finish(seconds, result)

        super()._reduce(work, done)

    def _apply_after(self, seconds: float, work: training.ApplyAverage, finish: Finish) -> None:
        def done(after: float, result: Result | None) -> None:
            if isinstance(result, training.Applied):
                self._move(self.anchor + self.course.averages[work.average.digest])
                self.course.note(self.fleet.network.now, result.version, self.anchor)
            finish(after, result)

        super()._apply_after(seconds, work, done)

    def _catch_up(self, work: training.CatchUp, finish: Finish) -> None:
        def done(seconds: float, result: Result | None) -> None:
            if isinstance(result, training.AnchorFetched):
                donor = self.fleet.machines[result.donor].jobs[self.job]
                if isinstance(donor, LearningProcess):
                    self._move(donor.anchor)
            finish(seconds, result)

        super()._catch_up(work, done)


@dataclass
class PacedMachine(Machine):
    """A machine whose step takes `step_seconds` and `sample_seconds` for each sample, a tenth up or down a round."""

    step_seconds: float = 0.0

    def compute_seconds(self, steps: int, microbatch: int) -> float:
        """Seconds for so many steps."""
        return steps * (self.step_seconds + self.sample_seconds * microbatch) * self.rng.uniform(0.9, 1.1)


def hash_of(seed: int, name: str) -> int:
    """A seed of a node's own, the same in every process."""
    return math.prod(ord(letter) + place for place, letter in enumerate(name, 1)) % 2**31 + seed

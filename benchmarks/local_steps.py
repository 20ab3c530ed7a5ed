"""What local steps between two averages cost in steps: four workers on one core, no network, everybody in time.

    python -m benchmarks.local_steps [--json] [--seeds 0 1] [--lengths 1 3 10] [--sync round overlap] [--steps 170]
    python -m benchmarks.local_steps --outer 1 0 --outer 0.7 0.5           outer rate and momentum (0: plain averaging)
    python -m benchmarks.local_steps --task small --lengths 1 3 10 30 --steps 400 [--workers 1]      a smaller model
    python -m benchmarks.local_steps --lengths 10 20 --inside 3            averages in the midst of rounds, as inside a site

The model, data, optimizer and held-out loss are those of `benchmarks.training`, whose ideal averages all gradients at each
step (160 steps to a loss of 2.6 with seed 0). With `overlap` the average of a round comes one step into the next one. Only
steps are counted, so that other work on the machine changes nothing but how long it takes: half a minute a row and more.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.training.tasks import TASKS, WORKERS, ByteGpt, Digits, Task, Windows, loss_of

VALIDATE_EVERY = 10  # steps
SMALL = replace(TASKS["gpt"], model=partial(ByteGpt, 64, 2, 4), learning_rate=2e-3, target=2.45)  # 0.12 million parameters


@dataclass
class Row:
    """One setting."""

    seed: int
    length: int
    """Steps between two averages."""
    sync: str
    outer: tuple[float, float]
    inside: int = 0
    """Steps between two averages in the midst of a round; 0: none."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Steps of each worker, held-out loss of the anchor."""
    reached: int | None = None
    """Steps until the task's target; None: not within those made."""


class Run:
    """The workers' models and the anchor."""

    def __init__(
        self, task: Task, data: Windows | Digits, seed: int, outer: tuple[float, float], workers: int = WORKERS
    ) -> None:
        torch.manual_seed(seed)
        self.task, self.data, self.seed = task, data, seed
        self.model = task.model()
        self.models = [copy.deepcopy(self.model) for _ in range(workers)]
        self.optimizers = [task.optimizer(model.parameters()) for model in self.models]
        self.anchor = parameters_to_vector(self.model.parameters()).detach().clone()
        self.rate, self.momentum = outer
        self.velocity = torch.zeros_like(self.anchor)
        self.origins = [self.anchor] * WORKERS
        """Where each worker's own steps are counted from."""
        self.steps = 0

    def step(self) -> None:
        """One of each worker."""
        for worker, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
            x, y = self.data.draw(self.seed, worker, self.steps, self.task.batch)
            optimizer.zero_grad()
            loss_of(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self.steps += 1

    def differences(self) -> list[Tensor]:
        """What each worker's own steps have added."""
        return [
            parameters_to_vector(model.parameters()).detach() - origin
            for model, origin in zip(self.models, self.origins, strict=True)
        ]

    def meet(self) -> None:
        """All go on from where the round's end would take them; what is their own stays (`runners/jobs/meeting.py`)."""
        own = self.differences()
        there = self.anchor + torch.stack(own).mean(0)
        self.origins = [there - each for each in own]
        for model in self.models:
            vector_to_parameters(there.clone(), model.parameters())

    def average(self, differences: Sequence[Tensor]) -> None:
        """The outer step; what each worker has beyond its difference stays."""
        mean = torch.stack(list(differences)).mean(0)
        self.velocity = self.momentum * self.velocity + mean
        moved = self.rate * (mean + self.momentum * self.velocity if self.momentum else mean)
        self.anchor = self.anchor + moved
        for model, own, origin in zip(self.models, differences, self.origins, strict=True):
            since = parameters_to_vector(model.parameters()).detach() - origin - own
            vector_to_parameters(self.anchor + since, model.parameters())
        self.origins = [self.anchor] * WORKERS

    def held_out(self) -> float:
        """Of the anchor."""
        vector_to_parameters(self.anchor.clone(), self.model.parameters())
        return _held_out(self.model, self.data)


def _held_out(model: nn.Module, data: Windows | Digits) -> float:
    x, y = data.held_out
    with torch.no_grad():
        return loss_of(model(x), y).item()


def train(row: Row, task: Task, data: Windows | Digits, steps: int, workers: int = WORKERS) -> Row:
    """Fill in a row."""
    run = Run(task, data, row.seed, row.outer, workers)
    travelling: list[Tensor] = []
    since, validated = 0, 0
    while run.steps < steps:
        run.step()
        since += 1
        if travelling:
            run.average(travelling)
            travelling = []
        if since < row.length:
            if row.inside and since % row.inside == 0:
                run.meet()
            continue
        travelling, since = run.differences(), 0
        if row.sync == "round":
            run.average(travelling)
            travelling = []
        if run.steps - validated >= VALIDATE_EVERY:
            validated = run.steps
            row.curve.append((run.steps, run.held_out()))
            if row.curve[-1][1] <= task.target:
                row.reached = run.steps
                break
    return row


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--task", choices=(*TASKS, "small"), default="gpt")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--inside", type=int, default=0, help="steps between two averages in the midst of a round")
    parser.add_argument("--sync", nargs="+", choices=("round", "overlap"), default=["round"])
    parser.add_argument("--outer", type=float, nargs=2, action="append", metavar=("RATE", "MOMENTUM"))
    parser.add_argument("--steps", type=int, default=250)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task = SMALL if asked.task == "small" else TASKS[asked.task]
    data = task.data()
    for seed in asked.seeds:
        for sync in asked.sync:
            for length in asked.lengths:
                for rate, momentum in asked.outer or [(1.0, 0.0)]:
                    row = train(
                        Row(seed, length, sync, (rate, momentum), asked.inside), task, data, asked.steps, asked.workers
                    )
                    print(json.dumps(asdict(row)) if asked.json else told(row), flush=True)


def told(row: Row) -> str:
    """For people."""
    end = f"{row.reached} steps" if row.reached is not None else f"not within {row.curve[-1][0]} ({row.curve[-1][1]:.3f})"
    length = f"{row.length} ({row.inside} inside)" if row.inside else f"{row.length}"
    return f"seed {row.seed}: {length} between averages, {row.sync}, outer {row.outer[0]:g}/{row.outer[1]:g}: {end}"


if __name__ == "__main__":
    main()

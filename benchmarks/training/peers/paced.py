"""A task in steps of a fixed time, and what a peer's worker is told by its driver (environment variables).

Four workers share some cores with each other and with other work, so every step is stretched by a sleep to a fixed time:
they behave like four machines, and the ideal time is known exactly. Validation is taken out of the sleeps.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.tasks import TASKS, loss_of

RANK = int(os.environ.get("RANK", "0"))
WORLD = int(os.environ.get("WORLD_SIZE", "4"))
TASK = TASKS.get(os.environ.get("TASK", ""), TASKS["gpt"])
SEED = int(os.environ.get("SEED", "0"))
STEP = float(os.environ.get("STEP_MS") or TASK.step_ms) / 1e3 * float(os.environ.get("SLOW", "1"))  # seconds
BUDGET = float(os.environ.get("BUDGET_S", "170"))  # seconds from T0
LOCAL_STEPS = int(os.environ.get("H", str(TASK.local_steps)))
T0 = float(os.environ.get("T0", "0")) or time.time()
"""When training begins, the same for all: until then everybody imports and connects."""
RUN = Path(os.environ.get("RUN", "."))
COORDINATOR = os.environ.get("COORD", "127.0.0.1")
MY_ADDRESS = os.environ.get("MY_ADDRESS", "127.0.0.1")
REJOIN = os.environ.get("REJOIN") == "1"
"""Started again after a crash."""

torch.set_num_threads(1)


class Log:
    """Lines of JSON for the driver, with the seconds since T0."""

    def __init__(self) -> None:
        self._path = Path(os.environ.get("LOG", "/dev/stdout"))

    def __call__(self, **fields: Any) -> None:
        """One line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"t": round(time.time() - T0, 3), "rank": RANK, **fields}) + "\n")


class Paced:
    """The model, this worker's batches, and steps that take as long as they should."""

    def __init__(self) -> None:
        torch.manual_seed(SEED)
        self.data = TASK.data()
        self.model = TASK.model()
        self.batch = TASK.batch
        self.shared_backward = False
        """Whether `backward` waits for the network: its time isn't computing then."""
        self._owed = 0.0  # seconds of validation that the next sleeps are shorter by
        self._backward = 0.0  # seconds that a backward pass takes, smoothed

    def optimizer(self, parameters: Any = None) -> torch.optim.Optimizer:
        """The task's."""
        return TASK.optimizer(self.model.parameters() if parameters is None else parameters)

    def warm_up(self) -> None:
        """A first pass, before the clock runs."""
        self.gradients(0, pace=False)
        self.model.zero_grad()

    def gradients(self, step: int, model: nn.Module | None = None, pace: bool = True) -> None:
        """Forward and backward on a batch. The sleep comes before the backward pass, so that DDP can overlap it."""
        begun = time.perf_counter()
        x, y = self.data.draw(SEED, RANK, step, self.batch)
        loss = loss_of((model or self.model)(x), y)
        if pace:
            rest = STEP - (time.perf_counter() - begun) - self._backward - self._owed
            self._owed = max(0.0, -rest) if self._owed else 0.0
            time.sleep(max(0.0, rest))
        begun = time.perf_counter()
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.shared_backward:
            took = time.perf_counter() - begun
            self._backward = 0.8 * self._backward + 0.2 * took if self._backward else took

    @torch.no_grad()
    def validate(self) -> float:
        """The held-out loss."""
        begun = time.perf_counter()
        x, y = self.data.held_out
        loss = round(loss_of(self.model(x), y).item(), 4)
        self._owed += time.perf_counter() - begun
        return loss

    def report(self, log: Log, step: int, samples: int, **fields: Any) -> bool:
        """Validate and say so; gives whether the target is reached."""
        loss = self.validate()
        reached = loss <= TASK.target
        log(ev="reached" if reached else "eval", step=step, samples=samples, val=loss, **fields)
        return reached

    def flat(self) -> Tensor:
        """All parameters as one vector, a copy."""
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])

    def load(self, vector: Tensor) -> None:
        """Put such a vector back."""
        at = 0
        for parameter in self.model.parameters():
            parameter.data.copy_(vector[at : at + parameter.numel()].view_as(parameter))
            at += parameter.numel()


def wait_for_start() -> None:
    """Until T0."""
    time.sleep(max(0.0, T0 - time.time()))


def elapsed() -> float:
    """Seconds since T0."""
    return time.time() - T0


def over() -> bool:
    """Whether the run's time is up."""
    return elapsed() > BUDGET

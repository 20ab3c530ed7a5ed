"""The ideal: how many steps it takes to the target if all workers' gradients were averaged at no cost.

Four workers, the peers' very batches, no network, no padding. Kept in the cache, since it depends on the seed, on torch and
on this Python's standard library, whose sources are the text.
"""

import json
import platform
import statistics
import sys
import time

import torch

from benchmarks.training.tasks import CACHE, TASKS, WORKERS, loss_of

VALIDATE_EVERY = 10  # steps, as the peers do
MOST_STEPS = 20_000
STEPS_TIMED = 40  # some seconds; what the first ones set up doesn't show in a median


def reference_curve(task: str, seed: int) -> list[tuple[int, float]]:
    """(steps of each worker, held-out loss) up to the target; worked out once, half a minute to some minutes."""
    place = CACHE / "reference" / f"{task}-{seed}-torch{torch.__version__}-python{platform.python_version()}.json"
    if place.exists():
        return [(int(step), float(loss)) for step, loss in json.loads(place.read_text())]
    curve = _train(task, seed)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(curve))
    return curve


def reference_steps(task: str, seed: int) -> int:
    """Steps of each worker to the target."""
    return reference_curve(task, seed)[-1][0]


def step_seconds(name: str) -> float:
    """What a step of one worker costs on this machine, on one thread: the median of many."""
    torch.set_num_threads(1)
    task = TASKS[name]
    data, model = task.data(), task.model()
    optimizer = task.optimizer(model.parameters())
    took = []
    for step in range(STEPS_TIMED):
        begun = time.perf_counter()
        optimizer.zero_grad()
        x, y = data.draw(0, 0, step, task.batch)
        loss_of(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def _train(name: str, seed: int) -> list[tuple[int, float]]:
    torch.set_num_threads(1)  # threads that wait for each other spin, and on a busy machine only that
    task = TASKS[name]
    data = task.data()
    torch.manual_seed(seed)
    model = task.model()
    optimizer = task.optimizer(model.parameters())
    held_x, held_y = data.held_out
    curve: list[tuple[int, float]] = []
    for step in range(MOST_STEPS):
        optimizer.zero_grad()
        for worker in range(WORKERS):
            x, y = data.draw(seed, worker, step, task.batch)
            (loss_of(model(x), y) / WORKERS).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % VALIDATE_EVERY == 0:
            with torch.no_grad():
                curve.append((step + 1, loss_of(model(held_x), held_y).item()))
            print(f"the ideal run: step {step + 1}, loss {curve[-1][1]:.3f}", file=sys.stderr, flush=True)
            if curve[-1][1] <= task.target:
                return curve
    raise RuntimeError(f"{name}: a loss of {task.target} was not reached in {MOST_STEPS} steps")

"""The ideal: how many steps it takes to the target if all workers' gradients were averaged at no cost.

Four workers, the peers' very batches, no network, no padding. Kept in the cache, since it depends on the seed, on torch and
on this Python's standard library, whose sources are the text.
"""

import json
import platform
import sys

import torch

from benchmarks.training.tasks import CACHE, TASKS, WORKERS, loss_of

VALIDATE_EVERY = 10  # steps, as the peers do
MOST_STEPS = 20_000


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

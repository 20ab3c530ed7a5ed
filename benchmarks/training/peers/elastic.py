"""DDP under torchrun (--nnodes=3:4): after any failure all workers start again from rank 0's last checkpoint."""

import os

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training.peers.paced import RUN, Log, Paced, over, wait_for_start

CHECKPOINT = RUN / "checkpoint.npz"  # a file system that all share is taken for granted
EVERY = 10  # steps


def save(task: Paced, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Parameters and AdamW's moments, as arrays."""
    arrays = {"step": np.array(step)}
    for i, p in enumerate(task.model.parameters()):
        state = optimizer.state[p]
        arrays |= {f"p{i}": p.detach().numpy(), f"m{i}": state["exp_avg"].numpy(), f"v{i}": state["exp_avg_sq"].numpy()}
    with CHECKPOINT.with_suffix(".part").open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    CHECKPOINT.with_suffix(".part").replace(CHECKPOINT)


def restore(task: Paced, optimizer: torch.optim.Optimizer) -> int:
    """What `save` wrote, if there is something; gives the step."""
    if not CHECKPOINT.exists():
        return 0
    with np.load(CHECKPOINT) as arrays:
        step = int(arrays["step"])
        for i, p in enumerate(task.model.parameters()):
            p.data.copy_(torch.from_numpy(arrays[f"p{i}"]))
            optimizer.state[p] = {
                "step": torch.tensor(float(step)),
                "exp_avg": torch.from_numpy(arrays[f"m{i}"]),
                "exp_avg_sq": torch.from_numpy(arrays[f"v{i}"]),
            }
    return step


def main() -> None:
    """Until the target or the end of the time."""
    log, task = Log(), Paced()
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    optimizer = task.optimizer()
    step = restore(task, optimizer)
    model = DistributedDataParallel(task.model)
    task.warm_up()
    task.shared_backward = True
    wait_for_start()
    log(ev="start", world=world, first=step)
    while not over():
        optimizer.zero_grad()
        task.gradients(step, model)
        optimizer.step()
        step += 1
        if step % EVERY:
            continue
        if rank:
            log(ev="step", step=step)
        elif task.report(log, step, step * task.batch * world, world=world):
            break
        else:
            save(task, optimizer, step)
    os._exit(0)


if __name__ == "__main__":
    main()

"""Plain DistributedDataParallel over gloo."""

import os

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training.peers.paced import RANK, WORLD, Log, Paced, elapsed, over, wait_for_start

VALIDATE_EVERY, VALIDATE_WITHIN = 10, 5.0  # steps, seconds


def main() -> None:
    """Until the target or the end of the time."""
    log, task = Log(), Paced()
    dist.init_process_group("gloo")
    model = DistributedDataParallel(task.model)
    task.warm_up()  # on the bare model: the backward pass is timed without the network
    task.shared_backward = True
    optimizer = task.optimizer()
    wait_for_start()
    log(ev="start")
    step, last = 0, -1.0
    while not over():
        optimizer.zero_grad()
        task.gradients(step, model)
        optimizer.step()
        step += 1
        if RANK == 0 and (step % VALIDATE_EVERY == 0 or elapsed() - last > VALIDATE_WITHIN):
            reached = task.report(log, step, step * task.batch * WORLD)
            last = elapsed()
            if reached:
                break
        elif step % VALIDATE_EVERY == 0:
            log(ev="step", step=step)
    log(ev="end", step=step)
    os._exit(0)  # gloo's destructor waits for peers that may be gone


if __name__ == "__main__":
    main()

"""Local SGD over gloo, the reference DiLoCo: H AdamW steps, an all-reduce of the differences, an outer step.

`OUTER=avg` is plain averaging, else Nesterov with `OLR` and `OMU`.
"""

import os
import time

import torch
import torch.distributed as dist

from benchmarks.training.peers.paced import LOCAL_STEPS, RANK, WORLD, Log, Paced, over, wait_for_start

OUTER_LR = float(os.environ.get("OLR", "0.7"))
OUTER_MOMENTUM = float(os.environ.get("OMU", "0.9"))
PLAIN = os.environ.get("OUTER") == "avg"


def main() -> None:
    """Until the target or the end of the time."""
    log, task = Log(), Paced()
    dist.init_process_group("gloo")
    anchor = task.flat()
    momentum = torch.zeros_like(anchor)
    inner = task.optimizer()
    task.warm_up()
    dist.barrier()
    wait_for_start()
    log(ev="start")
    step, waited = 0, 0.0
    while not over():
        for _ in range(LOCAL_STEPS):
            inner.zero_grad()
            task.gradients(step)
            inner.step()
            step += 1
        begun = time.perf_counter()
        difference = anchor - task.flat()
        dist.all_reduce(difference)
        difference /= WORLD
        waited += time.perf_counter() - begun
        if PLAIN:
            anchor -= difference
        else:
            momentum.mul_(OUTER_MOMENTUM).add_(difference)
            anchor.add_(difference + OUTER_MOMENTUM * momentum, alpha=-OUTER_LR)
        task.load(anchor)
        fields = {"round": step // LOCAL_STEPS, "comm": round(waited, 2)}
        if RANK:
            log(ev="step", step=step, **fields)
        elif task.report(log, step, step * task.batch * WORLD, **fields):
            break
    log(ev="end", step=step)
    os._exit(0)


if __name__ == "__main__":
    main()

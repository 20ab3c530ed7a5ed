"""torchft: a lighthouse on the coordinator's node, one replica group a worker, DiLoCo over gloo.

`HM_MODE=localsgd` is its LocalSGD instead; `OLR` and `OMU` are the outer step's, `FT_INIT=0` starts without a first sync.
"""

import os
import socket
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torchft import Manager, ProcessGroupGloo
from torchft.local_sgd import DiLoCo, LocalSGD

from benchmarks.training.peers.paced import (
    COORDINATOR,
    LOCAL_STEPS,
    MY_ADDRESS,
    RANK,
    REJOIN,
    Log,
    Paced,
    over,
    wait_for_start,
)

STORE_PORT, MANAGER_PORT, LIGHTHOUSE_PORT = 29600, 19530, 29510
TIMEOUT = timedelta(seconds=float(os.environ.get("FT_TIMEOUT", "60")))
OUTER_MOMENTUM = float(os.environ.get("OMU", "0.9"))


def manager(task: Paced, inner: torch.optim.Optimizer) -> Any:
    """torchft's own, with the state that a newcomer is given."""

    def load(state: dict[str, Any]) -> None:
        task.model.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])

    return Manager(
        pg=ProcessGroupGloo(timeout=TIMEOUT),
        min_replica_size=int(os.environ.get("FT_MIN", "2")),
        load_state_dict=load,
        state_dict=lambda: {"model": task.model.state_dict(), "optimizer": inner.state_dict()},
        use_async_quorum=False,
        init_sync=os.environ.get("FT_INIT", "1") == "1",
        replica_id=f"w{RANK}",
        store_addr=MY_ADDRESS,
        store_port=STORE_PORT,
        rank=0,
        world_size=1,
        lighthouse_addr=f"http://{COORDINATOR}:{LIGHTHOUSE_PORT}",
        hostname=socket.gethostname(),
        port=MANAGER_PORT,
        timeout=TIMEOUT,
        quorum_timeout=timedelta(seconds=120),
        connect_timeout=timedelta(seconds=30),
    )


def main() -> None:
    """Until the target or the end of the time."""
    log, task = Log(), Paced()
    store = dist.TCPStore(MY_ADDRESS, STORE_PORT, is_master=True, wait_for_workers=False)
    inner = task.optimizer()
    made = manager(task, inner)
    if os.environ.get("HM_MODE") == "localsgd":
        context = LocalSGD(made, task.model, inner, sync_every=LOCAL_STEPS)
    else:
        outer = torch.optim.SGD(
            task.model.parameters(),
            lr=float(os.environ.get("OLR", "0.7")),
            momentum=OUTER_MOMENTUM,
            nesterov=OUTER_MOMENTUM > 0,
        )
        context = DiLoCo(made, [task.model], inner, outer, sync_every=LOCAL_STEPS, use_bucketization=True)
    task.warm_up()
    if not REJOIN:
        wait_for_start()
    log(ev="start")
    step = 0
    with context:
        while not over():
            inner.zero_grad()
            task.gradients(step)
            begun = time.perf_counter()
            inner.step()
            step += 1
            if step % LOCAL_STEPS:
                continue
            fields = {"round": made.current_step(), "sync": round(time.perf_counter() - begun, 2)}
            log(ev="step", step=step, **fields)
            if RANK == 0 and task.report(log, step, made.batches_committed() * LOCAL_STEPS * task.batch, **fields):
                break
    log(ev="end", step=step)
    del store
    os._exit(0)


if __name__ == "__main__":
    main()

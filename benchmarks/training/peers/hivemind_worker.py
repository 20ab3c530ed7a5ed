"""hivemind.Optimizer. `HM_MODE=local`: local AdamW steps, the state averaged once an epoch of 4 x batch x H samples.

`HM_MODE=sync`: gradients gathered up to that batch and averaged, hivemind's own default.
"""

import json
import os

import hivemind
from hivemind.compression import Float16Compression, NoCompression

from benchmarks.training.peers.paced import (
    LOCAL_STEPS,
    MY_ADDRESS,
    RANK,
    REJOIN,
    RUN,
    Log,
    Paced,
    elapsed,
    over,
    wait_for_start,
)

SAY_EVERY = 10.0  # seconds
LOCAL = (os.environ.get("HM_MODE") or "local") == "local"


def main() -> None:
    """Until the target or the end of the time."""
    log, task = Log(), Paced()
    compression = Float16Compression() if os.environ.get("HM_FP16") else NoCompression()
    dht = hivemind.DHT(
        initial_peers=json.loads((RUN / "peers.json").read_text()),
        host_maddrs=[f"/ip4/{MY_ADDRESS}/tcp/0"],
        start=True,
        use_relay=False,
        use_auto_relay=False,
    )
    target = 4 * task.batch * LOCAL_STEPS
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="lab",
        batch_size_per_step=task.batch,
        target_batch_size=target,
        params=task.model.parameters(),
        optimizer=task.optimizer,
        use_local_updates=LOCAL,
        matchmaking_time=float(os.environ.get("HM_MATCH", "3")),
        averaging_timeout=60,
        grad_compression=compression,
        state_averaging_compression=compression,
        verbose=True,
        tracker_opts={"min_refresh_period": 0.2, "default_refresh_period": 1.0},
    )
    task.warm_up()
    if REJOIN:
        optimizer.load_state_from_peers()
    wait_for_start()
    log(ev="start")
    step, epoch, last = 0, optimizer.local_epoch, 0.0
    while not over():
        optimizer.zero_grad()
        task.gradients(step)
        optimizer.step()
        step += 1
        if optimizer.local_epoch == epoch and elapsed() - last < SAY_EVERY:
            continue
        epoch, last = optimizer.local_epoch, elapsed()
        log(ev="step", step=step, round=epoch)
        if RANK == 0 and task.report(log, step, epoch * target, round=epoch):
            break
    log(ev="end", step=step)
    os._exit(0)


if __name__ == "__main__":
    main()

"""Averages 25 MB over gloo, round after round, and says what each took."""

import json
import os
import time

import torch
import torch.distributed as dist

from benchmarks.training.peers.paced import RUN, WORLD
from benchmarks.training.tasks import VECTOR


def main() -> None:
    """Begins when the driver puts up the file `go`, with the links as they are to be."""
    dist.init_process_group("gloo")
    vector = torch.randn(VECTOR)
    dist.barrier()
    (RUN / f"up-{dist.get_rank()}").touch()
    while not (RUN / "go").exists():
        time.sleep(0.02)
    for _ in range(int(os.environ["ROUNDS"])):
        begun = time.time()
        dist.all_reduce(vector)
        vector /= WORLD
        print(json.dumps({"seconds": round(time.time() - begun, 3)}), flush=True)
    time.sleep(60)  # others may need this end of their connections


if __name__ == "__main__":
    main()

"""Averages 25 MB by hivemind's averager, round after round, and says what each took."""

import json
import os
import time

import hivemind
import torch
from hivemind.averaging import DecentralizedAverager

from benchmarks.training.peers.paced import MY_ADDRESS, RANK, RUN, WORLD
from benchmarks.training.tasks import VECTOR


def main() -> None:
    """Begins when the driver puts up the file `go`, with the links as they are to be."""
    dht = hivemind.DHT(
        initial_peers=json.loads((RUN / "peers.json").read_text()),
        host_maddrs=[f"/ip4/{MY_ADDRESS}/tcp/0"],
        start=True,
        use_relay=False,
        use_auto_relay=False,
    )
    averager = DecentralizedAverager(
        [torch.randn(VECTOR)],
        dht,
        prefix="m",
        target_group_size=WORLD,
        min_matchmaking_time=2.0,
        request_timeout=1.5,
        start=True,
    )
    (RUN / f"up-{RANK}").touch()
    while not (RUN / "go").exists():
        time.sleep(0.02)
    for _ in range(int(os.environ["ROUNDS"])):
        begun, failed, group = time.time(), None, 0
        try:
            group = len(averager.step(timeout=120) or ())
        except Exception as error:  # a round that fails is told, and the next one tried
            failed = repr(error)[:200]
        print(json.dumps({"seconds": round(time.time() - begun, 3), "group": group, "failed": failed}), flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main()

"""The first peer of hivemind's distributed hash table, on the coordinator's node."""

import json
import threading

import hivemind

from benchmarks.training.peers.paced import COORDINATOR, RUN

if __name__ == "__main__":
    table = hivemind.DHT(host_maddrs=[f"/ip4/{COORDINATOR}/tcp/31000"], start=True, use_relay=False, use_auto_relay=False)
    (RUN / "peers.json").write_text(json.dumps([str(address) for address in table.get_visible_maddrs()]))
    threading.Event().wait()

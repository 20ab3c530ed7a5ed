"""Whether the links are what they say: every profile by real probes, and the orders that change a link under way."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, get_args

from benchmarks.netlab import probes
from benchmarks.netlab.lab import PROFILES, Congestion, NetLab, address_of

PINGS = f"""
import socket, sys, time
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.connect((sys.argv[1], {probes.UDP_PORT}))
line.settimeout(0.9)
begun = time.monotonic()
for number in range(120):
    sent = time.monotonic()
    line.send(b"%d" % number)
    try:
        while int(line.recv(99)) != number:
            pass
        print(sent - begun, (time.monotonic() - sent) * 1e3, flush=True)
    except OSError:
        print(sent - begun, -1, flush=True)
    if time.monotonic() - begun > 12:
        break
    time.sleep(max(0, 0.1 - (time.monotonic() - sent)))
"""

PARTS = (
    ("good", 0.3, 1.8),
    ("spike of 400 ms", 2.3, 3.8),
    ("good again", 4.4, 4.9),
    ("cut for 2 s", 5.1, 6.9),
    ("back", 7.3, 7.9),
    ("blocked", 8.2, 9.3),
    ("unstable", 10.2, 12.0),
)
"""What the link is between which seconds, as `verify_controls` orders it; the changes themselves are left out."""


def verify_profiles(seconds: float) -> Iterator[dict[str, Any]]:
    """Round trips, loss and one stream each way of every profile, with each congestion control."""
    for control in get_args(Congestion):
        with NetLab(nodes=2, lab="vfy", congestion=control) as lab:
            lab.set(0, rtt=(0, 0), loss=0, rate=0)  # an ideal other end
            for profile in PROFILES:
                lab.set(1, profile)
                trips = lab.probe(0, 1, seconds, "rtt")
                down = lab.probe(0, 1, seconds, "tcp")
                up = lab.probe(1, 0, seconds, "tcp")
                goodput = {"down_mbit": down["goodput_mbit"], "up_mbit": up["goodput_mbit"]}
                yield {"profile": profile, "cc": control, **trips, **goodput, "retrans": down["tcp_retrans"]}


def verify_controls() -> Iterator[dict[str, Any]]:
    """Round trips in ms while a link is spiked, cut, blocked and changed; lost ones are counted."""
    with NetLab(3, "ctl") as lab:
        lab.set(0, rtt=(0, 0))
        lab.set(1, "good")
        server = lab.popen(1, [sys.executable, probes.__file__, "serve", "rtt"], stdout=subprocess.PIPE)
        assert server.stdout is not None
        server.stdout.readline()
        pings = lab.popen(0, [sys.executable, "-c", PINGS, address_of(1)], stdout=subprocess.PIPE)
        begun = time.monotonic()
        for at, order in (
            (2, "spike 1 ms=400 for=2"),
            (5, "cut 1 for=2"),
            (8, "block 0 1 1"),
            (9.5, "heal 1"),
        ):
            time.sleep(max(0.0, begun + at - time.monotonic()))
            lab.order(order)
        time.sleep(0.5)
        lab.set(1, "unstable")
        lines = pings.communicate()[0].decode().splitlines()
        server.kill()
        server.wait()
    heard = [(float(at), float(trip)) for at, trip in (line.split() for line in lines)]
    for name, start, end in PARTS:
        trips = [trip for at, trip in heard if start <= at < end]
        good = [trip for trip in trips if trip >= 0]
        mean = round(sum(good) / len(good), 1) if good else None
        yield {"link": name, "sent": len(trips), "lost": len(trips) - len(good), "mean_ms": mean}

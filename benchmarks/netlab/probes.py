"""What a link really does: round trips and loss by UDP echoes, and the goodput of one TCP stream.

Both ends are programs of their own (`python probes.py ROLE ...`), so that they run inside the nodes; only the standard
library is used.
"""

import json
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

UDP_PORT, TCP_PORT = 7007, 7008
ECHO_EVERY = 0.02  # seconds: 50 a second are no load for any link
LAST_ECHO_WITHIN = 1.5  # seconds: three times the worst profile's round trip
TCP_INFO, TCP_CONGESTION = 11, 13  # socket options that `socket` doesn't name everywhere
TOTAL_RETRANS = 100  # offset of tcpi_total_retrans in struct tcp_info


Start = Callable[[int, list[str]], "subprocess.Popen[bytes]"]
"""Starts a program on a node, its standard output a pipe."""


def probe(start: Start, near: int, far: int, address: str, seconds: float, *kinds: str) -> dict[str, Any]:
    """Figures of the way from node `near` to `far`, which has this address.

    Kinds: `rtt` for round trips and loss, `tcp` for the goodput of one stream.
    """
    figures: dict[str, Any] = {}
    script = [sys.executable, __file__]
    for kind in kinds:
        server = start(far, [*script, "serve", kind])
        assert server.stdout is not None
        server.stdout.readline()
        client = start(near, [*script, kind, address, str(seconds)])
        figures.update(json.loads(client.communicate()[0]))
        if kind == "tcp":
            figures.update(json.loads(server.communicate()[0]))
        server.kill()
        server.wait()
    return figures


def serve(kind: str) -> None:
    """The far end."""
    if kind == "rtt":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            line.bind(("0.0.0.0", UDP_PORT))
            print("up", flush=True)
            while True:
                data, sender = line.recvfrom(2048)
                line.sendto(data, sender)
    listener = socket.create_server(("0.0.0.0", TCP_PORT))
    print("up", flush=True)
    connection, _ = listener.accept()
    total, first, last = 0, 0.0, 0.0
    while data := connection.recv(1 << 18):
        last = time.monotonic()
        first = first or last
        total += len(data)
    rate = total * 8e-6 / max(last - first, 1e-3)
    print(json.dumps({"goodput_mbit": round(rate, 3), "tcp_mb": round(total / 1e6, 2)}), flush=True)


def round_trips(host: str, seconds: float) -> dict[str, float]:
    """Milliseconds there and back, and the part that was lost."""
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.connect((host, UDP_PORT))
    line.settimeout(LAST_ECHO_WITHIN)
    heard: dict[int, float] = {}
    count = int(seconds / ECHO_EVERY)

    def hear() -> None:
        try:
            while True:
                number, sent = line.recv(2048).split()
                heard[int(number)] = (time.monotonic() - float(sent)) * 1e3
        except OSError:
            return

    hearing = threading.Thread(target=hear)
    hearing.start()
    begun = time.monotonic()
    for number in range(count):
        line.send(b"%d %.9f" % (number, time.monotonic()))
        time.sleep(max(0.0, begun + (number + 1) * ECHO_EVERY - time.monotonic()))
    hearing.join()
    times = sorted(heard.values())

    def quantile(part: float) -> float:
        return round(times[min(len(times) - 1, int(part * len(times)))], 2)

    return {
        "rtt_min": quantile(0),
        "rtt_p50": quantile(0.5),
        "rtt_mean": round(statistics.mean(times), 2),
        "rtt_p95": quantile(0.95),
        "rtt_max": quantile(1),
        "sent": count,
        "loss_pct": round(100 * (1 - len(times) / count), 2),
    }


def stream(host: str, seconds: float) -> dict[str, Any]:
    """Send for so long; what was sent again, and by which congestion control."""
    with socket.create_connection((host, TCP_PORT)) as line:
        block, until = bytes(1 << 16), time.monotonic() + seconds
        line.settimeout(30)
        while time.monotonic() < until:
            line.send(block)
        info = line.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
        control = line.getsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, 16).rstrip(b"\0").decode()
        line.shutdown(socket.SHUT_WR)
    return {"tcp_retrans": struct.unpack_from("I", info, TOTAL_RETRANS)[0], "cc": control}


def main(role: str, *rest: str) -> None:
    """One end."""
    if role == "serve":
        serve(rest[0])
    else:
        print(json.dumps((round_trips if role == "rtt" else stream)(rest[0], float(rest[1]))))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How long it takes to average 25 MB of float32 over four workers behind equal links.

The peers' seconds are of one call, the slowest worker's. Shoal's are those of a round of a job that computes next to
nothing: from the first difference that is ready until the last worker has applied the average; the first rounds, in which
it gets to know the links, are in the list, and the median is of the second half. Floor: the bytes of one encoded vector by
the link's rate.
"""

import contextlib
import itertools
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.netlab import PROFILES, LabError, NetLab
from benchmarks.netlab.lab import Congestion
from benchmarks.training.coordinators import PeerRun, start_coordinator, start_flower_run
from benchmarks.training.fleet import Fleet
from benchmarks.training.peer_race import PEERS, bin_of, environment_of, start_worker
from benchmarks.training.race import BEGIN_WITHIN, Setting
from benchmarks.training.results import megabytes
from benchmarks.training.scenarios import Scenario
from benchmarks.training.tasks import VECTOR, WORKERS

READY_WITHIN = 60.0  # seconds for all workers to be connected
LOOK_EVERY = 0.3  # seconds between looks at the workers' output
FLOAT_BYTES = 4 * VECTOR
MODULES = {"gloo": ("ddp", "average_gloo"), "hivemind": ("hivemind", "average_hivemind"), "flower": ("flower", "")}
"""The peer whose environment is used, and the module."""


def run_averaging(
    tool: str, link: str, congestion: Congestion, rounds: int, limit: float, out: Path, request: dict[str, Any]
) -> dict[str, Any]:
    """Figures of a tool: seconds of each round, their median, bytes, and the floor."""
    if link not in PROFILES:
        raise LabError(f"no profile is named {link!r}: there are {', '.join(PROFILES)}")
    folder = (out / f"average-{tool}-{link}-{congestion}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with NetLab(WORKERS + 1, "avg", congestion=congestion) as lab:
        if tool == "shoal":
            found = _shoal(lab, folder, link, rounds, limit, request)
        else:
            found = _peer(tool, lab, folder, link, rounds, limit)
    seconds = found["seconds"]
    settled = seconds[len(seconds) // 2 :] if tool == "shoal" else seconds
    median = statistics.median(settled) if settled else None
    size = found.pop("size", FLOAT_BYTES)
    floor = size * 8e-6 / float(str(PROFILES[link]["rate"]))
    ratio = {"median": median, "size": size, "floor": floor, "of_floor": median and median / floor}
    where = {"tool": tool, "link": link, "cc": congestion, "load": os.getloadavg()[0], "date": time.strftime("%Y-%m-%d")}
    return where | found | ratio


def _shoal(lab: NetLab, folder: Path, link: str, rounds: int, limit: float, request: dict[str, Any]) -> dict[str, Any]:
    scenario = Scenario("average", "", links=(link,) * WORKERS)
    with Fleet(lab, folder, scenario, 0.0) as fleet:
        lab.set("all", "perfect")
        for worker in range(WORKERS):
            lab.set(worker, link)
        fleet.submit(
            {
                "kind": "train",
                "id": "average",
                "workload": "benchmarks.training.workloads:vector",
                "rounds": rounds,
                "min_nodes": WORKERS,
                "microbatch": 1,
                "microbatch_max": 1,
                "local_steps": 1,
                "validate_every": 0,
                "checkpoint_every": 0,
            }
            | request
        )
        start = fleet.wait_for("RoundOpened", BEGIN_WITHIN)["at"]
        before = lab.stats()
        while time.time() - start < limit:
            event = fleet.next_event(limit - (time.time() - start))
            if event is None or event["type"] == "DeskEnded" or _applied(fleet.heard, rounds) >= WORKERS:
                break
        after = lab.stats()
    heard = fleet.heard
    offers = [e for e in heard if e["type"] == "ContributionOffered"]
    seconds = [found for number in range(1, rounds + 1) if (found := _seconds(heard, number)) is not None]
    return {
        "seconds": [round(s, 2) for s in seconds],
        "sent_mb": megabytes(before, after, "tx_offered_bytes"),
        "size": offers[-1]["size"] if offers else FLOAT_BYTES,
        "encodings": sorted({e["encoding"] for e in offers}),
        "in_time": [len(e["contributions"]) for e in heard if e["type"] == "RoundClosed"],
    }


def _applied(heard: Sequence[dict[str, Any]], number: int) -> int:
    return len({e["node"] for e in heard if e["type"] == "RoundApplied" and e["version"] >= number})


def _seconds(heard: Sequence[dict[str, Any]], number: int) -> float | None:
    ready = [e["at"] for e in heard if e["type"] == "ContributionOffered" and e["round"] == number]
    applied = {e["node"]: e["at"] for e in heard if e["type"] == "RoundApplied" and e["version"] == number}
    return max(applied.values()) - min(ready) if ready and len(applied) == WORKERS else None


def _peer(tool: str, lab: NetLab, folder: Path, link: str, rounds: int, limit: float) -> dict[str, Any]:
    name, module = MODULES[tool]
    peer, bin_ = PEERS[name], bin_of(name)
    setting = Setting(Scenario("average", ""))
    environment = environment_of(setting, folder, time.time(), {"ROUNDS": rounds, "TASK": "vector"})
    running = PeerRun(lab, folder, bin_, environment)
    try:
        if peer.coordinated:
            start_coordinator(name, running)
        for worker in range(WORKERS):
            if tool == "flower":
                start_worker(name, running, setting.scenario, worker)
            else:
                start_worker(name, running, setting.scenario, worker, module=module)
        _wait(lambda: tool == "flower" or len(list(folder.glob("up-*"))) == WORKERS, READY_WITHIN)
        for worker in range(WORKERS):
            lab.set(worker, link)
        before = lab.stats()
        if tool == "flower":
            start_flower_run(running, time.time())
        (folder / "go").touch()
        _wait(lambda: len(_rounds_of(tool, folder)) >= rounds, limit)
        return {"seconds": _rounds_of(tool, folder), "sent_mb": megabytes(before, lab.stats(), "tx_offered_bytes")}
    finally:
        running.close()


def _wait(done: Callable[[], bool], limit: float) -> None:
    until = time.monotonic() + limit
    while not done() and time.monotonic() < until:
        time.sleep(LOOK_EVERY)


def _rounds_of(tool: str, folder: Path) -> list[float]:
    """Seconds of each round that is over, the slowest worker's."""
    if tool == "flower":
        path = folder / "server.jsonl"
        times = [row["t"] for row in _rows(path) if row["ev"] == "eval"]
        return [round(later - earlier, 2) for earlier, later in itertools.pairwise(times)]
    columns = [[row["seconds"] for row in _rows(folder / f"worker-{w}.log") if "seconds" in row] for w in range(WORKERS)]
    return [max(row) for row in zip(*columns, strict=False)]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            if line.startswith("{"):
                rows.append(json.loads(line))
    return rows

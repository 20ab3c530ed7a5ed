"""A run of a peer in a scenario, by the same rules as a run of Shoal."""

import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.netlab import LabError, NetLab, address_of
from benchmarks.training.coordinators import PeerRun, start_coordinator, start_flower_run
from benchmarks.training.race import Setting
from benchmarks.training.reference import reference_steps
from benchmarks.training.results import Result, megabytes
from benchmarks.training.scenarios import COORDINATOR, Event, Scenario
from benchmarks.training.tasks import CACHE, WORKERS

LOOK_EVERY = 0.05  # seconds between looks at the workers' logs
FLOWER_PORT = 8000


@dataclass(frozen=True)
class Peer:
    """How a peer's workers are started."""

    words: str
    venv: str
    module: str
    lead: float = 12.0
    """Seconds for everybody to import and connect before the clock starts."""
    coordinated: bool = False


PEERS = {
    "ddp": Peer("DistributedDataParallel over gloo", "base", "ddp"),
    "local-sgd": Peer("local SGD (DiLoCo) over gloo; --set OUTER=avg for plain averaging", "base", "local_sgd"),
    "elastic": Peer("DDP under torchrun, which starts all again after a failure", "base", "elastic"),
    "flower": Peer("Flower's FedAvg", "flwr", "", lead=25.0, coordinated=True),
    "hivemind": Peer("hivemind.Optimizer with local updates; --set HM_MODE=sync", "hm", "hivemind_worker", 20.0, True),
    "torchft": Peer("torchft's DiLoCo; --set OLR=1 --set OMU=0 for averaging", "ft", "torchft_worker", coordinated=True),
}


def run_peer(name: str, setting: Setting, variables: dict[str, Any]) -> Result:
    """One run; `variables` are given to the peer's driver.

    Raises:
        LabError: the laboratory can't be had, or the peer isn't installed.
    """
    peer, task, scenario = PEERS[name], setting.trained, setting.scenario
    bin_ = bin_of(name)
    steps = WORKERS * reference_steps(setting.task, setting.seed)
    folder = (setting.out / f"{name}-{scenario.name}-{setting.task}-{setting.congestion}-{setting.seed}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with NetLab(WORKERS + 1, setting.lab, congestion=setting.congestion, seed=setting.seed + 1) as lab:
        begin = time.time() + peer.lead
        running = PeerRun(lab, folder, bin_, environment_of(setting, folder, begin, variables))
        try:
            if peer.coordinated:
                start_coordinator(name, running)
            for worker in range(WORKERS):
                start_worker(name, running, scenario, worker)
            if name == "flower":
                start_flower_run(running, begin)
            before, reached = _watch(name, running, setting, begin)
            end, after = time.time() - begin, lab.stats()
        finally:
            running.close()
    said = _said(folder)
    if not any(e["ev"] == "start" for e in said):
        raise LabError(f"no worker of {name} began to train: look into the logs in {folder}")
    start = min((e["t"] for e in said if e["ev"] == "start"), default=0.0)
    curve = [(e["t"] - start, e["val"]) for e in said if e["ev"] in ("eval", "reached")]
    return Result(
        tool=name,
        scenario=scenario.name,
        task=setting.task,
        congestion=setting.congestion,
        seed=setting.seed,
        reached=reached is not None,
        seconds=(reached["t"] if reached is not None else end) - start,
        ideal=scenario.ideal_seconds(steps, task),
        ideal_undisturbed=Scenario("", "").ideal_seconds(steps, task),
        loss=curve[-1][1] if curve else None,
        rounds=max((e.get("round", 0) for e in said), default=0) or None,
        sent_mb=tuple(megabytes(before, after, "tx_offered_bytes")),
        load=os.getloadavg()[0],
        date=time.strftime("%Y-%m-%d"),
        command=" ".join(sys.argv[1:]),
        curve=curve,
        details={"variables": variables, "samples": reached and reached.get("samples"), "step_ms": task.step_ms},
    )


def bin_of(name: str) -> Path:
    """Where the programs of a peer's virtual environment are.

    Raises:
        LabError: it isn't installed.
    """
    found = CACHE / f"venv-{PEERS[name].venv}" / "bin"
    if not (found / "python").exists():
        raise LabError(f"{name} is not installed: run benchmarks/training/peers/install.sh {PEERS[name].venv}")
    return found


def environment_of(setting: Setting, folder: Path, begin: float, variables: dict[str, Any]) -> dict[str, str]:
    """What a worker is told besides its own place."""
    root = Path(__file__).resolve().parents[2]
    own = {
        "PYTHONPATH": str(root),
        "PEERS_DIR": str(CACHE),
        "PYTHONUNBUFFERED": "1",
        "WORLD_SIZE": str(WORKERS),
        "TASK": setting.task,
        "STEP_MS": str(setting.trained.step_ms),
        "SEED": str(setting.seed),
        "BUDGET_S": str(setting.budget),
        "T0": repr(begin),
        "RUN": str(folder),
        "COORD": address_of(COORDINATOR),
        "MASTER_ADDR": address_of(0),
        "MASTER_PORT": "29500",
        "GLOO_SOCKET_IFNAME": "tun0",
        "TP_SOCKET_IFNAME": "tun0",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    return {**os.environ, **own, **{name: str(value) for name, value in variables.items()}}


def start_worker(
    name: str, running: PeerRun, scenario: Scenario, worker: int, again: bool = False, module: str = ""
) -> None:
    """A peer's process on a worker's node; `module`: another one than the peer's own."""
    slow = scenario.slowdown[worker]
    environment = {
        "RANK": str(worker),
        "SLOW": str(slow),
        "LOG": str(running.folder / f"worker-{worker}.jsonl"),
        "MY_ADDRESS": address_of(worker),
        "REJOIN": "1" if again else "0",
    }
    argv: list[str]
    if name == "flower":
        environment["FLWR_HOME"] = str(running.folder / f"flower-{worker}")
        superlink = f"{address_of(COORDINATOR)}:{FLOWER_PORT}"
        config = f"partition-id={worker} slow={slow}"
        argv = [str(running.bin / "flower-supernode"), "--insecure", "--superlink", superlink]
        argv += ["--port", "9094", "--node-config", config]
    elif name == "elastic":
        # torchrun gives rank, size and address itself.
        for given in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment[given] = ""
        argv = [str(running.bin / "torchrun"), "--nnodes=3:4", "--nproc-per-node=1", "--max-restarts=10"]
        argv += ["--rdzv-backend=c10d", "--rdzv-endpoint=node0:29400", "--rdzv-id=1"]
        argv += [f"--local-addr={address_of(worker)}", "-m", "benchmarks.training.peers.elastic"]
    else:
        argv = [str(running.bin / "python"), "-m", f"benchmarks.training.peers.{module or PEERS[name].module}"]
    running.start(worker, f"worker-{worker}", argv, environment)


def _watch(
    name: str, running: PeerRun, setting: Setting, begin: float
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Let it run; gives the links' counters at the start, and what was said when the target was reached."""
    # Joining is not part of the contest: the links turn bad once everybody is there.
    time.sleep(max(0.0, begin - 1 - time.time()))
    for worker, profile in enumerate(setting.scenario.links):
        running.lab.set(worker, profile)
    before = running.lab.stats()
    coming = sorted(setting.scenario.events, key=lambda event: event.at)
    while (now := time.time() - begin) < setting.budget:
        while coming and coming[0].at <= now:
            _do(coming.pop(0), name, running, setting.scenario)
        if found := [e for e in _said(running.folder) if e["ev"] == "reached"]:
            return before, found[0]
        if not running.working() and not coming:
            break
        time.sleep(LOOK_EVERY)
    return before, None


def _do(event: Event, name: str, running: PeerRun, scenario: Scenario) -> None:
    match event.do:
        case "kill":
            running.lab.crash(event.worker)
        case "return":
            start_worker(name, running, scenario, event.worker, again=True)
        case "link":
            running.lab.set(event.worker, event.profile)


def _said(folder: Path) -> list[dict[str, Any]]:
    """What all workers, and a server, have logged so far, in order of time."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    said = []
    for line in lines:
        with contextlib.suppress(ValueError):  # half a line
            said.append(json.loads(line))
    return sorted(said, key=lambda event: float(event["t"]))

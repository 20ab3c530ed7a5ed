"""A peer's processes, and what it needs besides its workers: Flower's SuperLink, hivemind's table, torchft's lighthouse."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.netlab import LabError, NetLab
from benchmarks.training.scenarios import COORDINATOR

HIVEMIND_WITHIN = 30.0  # seconds for the table to say its addresses
SUPERLINK_STARTS = 6.0  # seconds; it doesn't say when it is ready
FLOWER_CONFIG = '[superlink]\ndefault = "lab"\n\n[superlink.lab]\naddress = "127.0.0.1:8000"\ninsecure = true\n'


class PeerRun:
    """The processes of one run."""

    def __init__(self, lab: NetLab, folder: Path, bin_: Path, environment: Mapping[str, str]) -> None:
        self.lab, self.folder, self.bin = lab, folder, bin_
        self.environment = dict(environment) | {"PATH": f"{bin_}:{environment['PATH']}"}
        self._all: list[subprocess.Popen[bytes]] = []
        self._workers: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, node: int, name: str, argv: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        """A process on a node; an empty variable is left out. Its output goes to a file of this name."""
        environment = {k: v for k, v in (self.environment | dict(more or {})).items() if v != ""}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = self.lab.popen(
                node, argv, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self._all.append(process)
        if node != COORDINATOR:
            self._workers[node] = process

    def working(self) -> bool:
        """Whether any worker's process is there."""
        return any(process.poll() is None for process in self._workers.values())

    def close(self) -> None:
        """End all of them."""
        for process in self._all:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start_coordinator(name: str, running: PeerRun) -> None:
    """What the workers connect to."""
    if name == "torchft":
        least, join = (running.environment.get(key, value) for key, value in (("FT_MIN", "2"), ("FT_JOIN", "60000")))
        argv = [str(running.bin / "torchft_lighthouse"), "--bind", "0.0.0.0:29510", "--min_replicas", least]
        running.start(COORDINATOR, "coordinator", [*argv, "--join_timeout_ms", join, "--quorum_tick_ms", "50"])
    elif name == "hivemind":
        argv = [str(running.bin / "python"), "-m", "benchmarks.training.peers.hivemind_boot"]
        running.start(COORDINATOR, "coordinator", argv)
        until = time.monotonic() + HIVEMIND_WITHIN
        while not (running.folder / "peers.json").exists():
            if time.monotonic() > until:
                raise LabError(f"hivemind's table did not start: look into {running.folder / 'coordinator.log'}")
            time.sleep(0.1)
    elif name == "flower":
        argv = [str(running.bin / "flower-superlink"), "--insecure", "--host", "0.0.0.0", "--port", "8000"]
        more = {"FLWR_HOME": str(running.folder / "flower-server"), "LOG": str(running.folder / "server.jsonl")}
        running.start(COORDINATOR, "coordinator", [*argv, "--disable-runtime-dependency-installation"], more)
        time.sleep(SUPERLINK_STARTS)


def start_flower_run(running: PeerRun, begin: float) -> None:
    """Submit the app, a moment before the clock starts."""
    home = running.folder / "flower-client"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(FLOWER_CONFIG)
    time.sleep(max(0.0, begin - time.time() - 2))
    app = Path(__file__).with_name("peers") / "flower"
    argv = [str(running.bin / "flwr"), "run", str(app), "lab", "--stream"]
    running.start(COORDINATOR, "submit", argv, {"FLWR_HOME": str(home)})

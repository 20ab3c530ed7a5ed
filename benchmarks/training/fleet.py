"""A fleet of Shoal in the laboratory: server and agents on one node, `shoal node` and its job processes on each worker.

Nothing is emulated but the packets' way and, by `--step-time`, the machines' speed: the links are the laboratory's.
"""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.netlab import LabError, NetLab, address_of
from benchmarks.training.scenarios import COORDINATOR, Scenario
from benchmarks.training.tasks import WORKERS

ROOT = Path(__file__).resolve().parents[2]
SHOAL = (sys.executable, "-c", "import sys; from runners.cli import main; sys.argv[0] = 'shoal'; main()")
UP_WITHIN = 120.0  # seconds for the fleet to be there, however busy the machine is
ENDED_WITHIN = 15.0  # seconds for `shoal up` to end; ten are promised
JOB_PROCESS = b"runners.fork_server"  # the server and what it forked


class Fleet:
    """All processes of one run; a context manager, within the laboratory's."""

    def __init__(
        self,
        lab: NetLab,
        folder: Path,
        scenario: Scenario,
        step_ms: float,
        settings: Path | None = None,
        site: str = "",
    ) -> None:
        """`step_ms`: what a step of the starting microbatch is padded to; `settings`: a `shoal.toml` for all; `site`: where
        all nodes are told that they stand."""
        self.lab, self.folder, self.scenario, self.step_ms = lab, folder, scenario, step_ms
        self.settings, self.site = settings, site
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.heard: list[dict[str, Any]] = []
        """All that was taken from `events`."""
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._up: subprocess.Popen[bytes] | None = None
        self._desk: subprocess.Popen[bytes] | None = None
        self._server = ""

    def __enter__(self) -> Self:
        """Server, agents and nodes, all there.

        Raises:
            LabError: they aren't within two minutes; the logs are in the run's folder.
        """
        try:
            self._server = self._start_up()
            for worker in range(WORKERS):
                self.start_node(worker)
            self._start_desk()
            self.wait_for("Joined", UP_WITHIN)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _spawn(self, node: int, name: str, argv: tuple[str, ...], **keywords: Any) -> "subprocess.Popen[bytes]":
        store = self.folder / name
        store.mkdir(parents=True, exist_ok=True)
        if self.settings is not None:
            (store / "shoal.toml").write_bytes(self.settings.read_bytes())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
        environment["PYTHONPATH"] = f"{ROOT}:{environment.get('PYTHONPATH', '')}"
        with (self.folder / f"{name}.log").open("ab") as log:
            return self.lab.popen(node, argv, env=environment, cwd=store, stderr=log, start_new_session=True, **keywords)

    def _start_up(self) -> str:
        """Gives the address with the token, as it is printed for pasting."""
        argv = (*SHOAL, "up", "--listen", address_of(COORDINATOR))
        self._up = self._spawn(COORDINATOR, "coordinator", argv, stdout=subprocess.PIPE)
        assert self._up.stdout is not None
        said = ""
        while line := self._up.stdout.readline().decode():
            said += line
            if found := re.search(r"shoal node --server (\S+)", line):
                return found[1]
        raise LabError(f"`shoal up` ended: {said or (self.folder / 'coordinator.log').read_text()}")

    def start_node(self, worker: int) -> None:
        """A worker's node, for the first time or again."""
        who = ("--server", self._server, "--name", f"worker-{worker}", "--app-dir", str(ROOT))
        speed = ("--step-time", str(self.step_ms), "--slowdown", str(self.scenario.slowdown[worker]))
        place = ("--site", self.site) if self.site else ()
        self._nodes[worker] = self._spawn(
            worker, f"worker-{worker}", (*SHOAL, "node", *who, *speed, *place), stdout=subprocess.DEVNULL
        )

    def _start_desk(self) -> None:
        argv = (sys.executable, "-m", "benchmarks.training.desk", "--server", self._server, "--nodes", str(WORKERS))
        self._desk = self._spawn(COORDINATOR, "desk", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out = self._desk.stdout
        assert out is not None

        def read() -> None:
            with (self.folder / "events.jsonl").open("wb") as file:
                for line in out:
                    file.write(line)
                    with contextlib.suppress(ValueError):
                        self.events.put(json.loads(line))
            self.events.put({"type": "DeskEnded"})

        threading.Thread(target=read, daemon=True).start()

    # Orders.

    def crash(self, worker: int) -> None:
        """The worker's machine dies."""
        self.lab.crash(worker)
        self._nodes[worker].wait()

    def _tell_desk(self, line: str) -> None:
        assert self._desk is not None
        assert self._desk.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._desk.stdin.write(line.encode() + b"\n")
            self._desk.stdin.flush()

    def submit(self, request: dict[str, Any]) -> None:
        """Submit the job."""
        self._tell_desk(json.dumps(request))

    def cancel(self) -> None:
        """End the job before its time."""
        self._tell_desk("cancel")

    def next_event(self, timeout: float) -> dict[str, Any] | None:
        """The next event of the job; None if none came in time."""
        try:
            event = self.events.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None
        self.heard.append(event)
        return event

    def wait_for(self, kind: str, timeout: float) -> dict[str, Any]:
        """The next event of a kind.

        Raises:
            LabError: it didn't come, or the desk's end is gone.
        """
        until = time.monotonic() + timeout
        while (event := self.next_event(until - time.monotonic())) is not None:
            if event["type"] == kind:
                return event
            if event["type"] == "DeskEnded":
                break
        raise LabError(f"no {kind} within {timeout:.0f} s: look into the logs in {self.folder}")

    def peak_memory(self) -> dict[str, float]:
        """The most that each worker's job process had in memory so far, MB; of those that run."""
        found = {}
        for worker in range(WORKERS):
            for pid in self.lab.processes(worker):
                with contextlib.suppress(OSError):
                    if JOB_PROCESS in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found[f"worker-{worker}"] = max(_high_water(pid), found.get(f"worker-{worker}", 0))
        return found

    def close(self) -> None:
        """End everything in good order: what is recorded is on disk then."""
        for process in (self._desk, self._up):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        if self._up is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._up.wait(ENDED_WITHIN)
        for process in (*self._nodes.values(), self._desk, self._up):
            if process is not None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _high_water(pid: int) -> float:
    lines: Iterator[str] = iter(Path(f"/proc/{pid}/status").read_text().splitlines())
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")), 0.0)

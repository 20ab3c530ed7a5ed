"""A run of Shoal in a scenario: links that turn bad, faults at their times, and the clock that stops at the target."""

import contextlib
import itertools
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.netlab import NetLab
from benchmarks.netlab.lab import Congestion
from benchmarks.training.fleet import Fleet
from benchmarks.training.processors import difference, processor_seconds
from benchmarks.training.reference import reference_steps
from benchmarks.training.results import Result, megabytes
from benchmarks.training.scenarios import Event, Scenario
from benchmarks.training.tasks import TASKS, WORKERS, Task
from benchmarks.training.where import Where, where

JOB = "race"
BEGIN_WITHIN = 120.0  # seconds from the submission to the first round: four imports of torch on however busy a machine
REPORT_WITHIN = 40.0  # seconds from the last round to the report: the model's way to the store


@dataclass(frozen=True)
class Setting:
    """What is run and how."""

    scenario: Scenario
    task: str = "gpt"
    congestion: Congestion = "bbr"
    seed: int = 0
    budget: float = 170.0
    """Seconds of training after which a run is given up."""
    request: dict[str, Any] = field(default_factory=dict)
    """Fields of the job's request besides, or instead of, those below."""
    settings: Path | None = None
    """A `shoal.toml` for agents and nodes."""
    out: Path = Path("runs/training")
    lab: str = "race"
    site: str = ""
    """All workers are told that they stand there; empty: nobody is told anything."""
    step_ms: float | None = None
    """What a step is padded to, if not what the task says."""

    @property
    def trained(self) -> Task:
        """What everybody trains, in steps of the time asked for."""
        task = TASKS[self.task]
        return task if self.step_ms is None else replace(task, step_ms=self.step_ms)


def request_of(setting: Setting) -> dict[str, Any]:
    """The job. All that a peer's driver fixes is given; the rest is what Shoal does by itself."""
    task = TASKS[setting.task]
    return {
        "kind": "train",
        "id": JOB,
        "workload": f"benchmarks.training.workloads:{setting.task}",
        "rounds": 1_000_000,
        "min_nodes": WORKERS,
        "seed": setting.seed,
        "microbatch": task.batch,
        "microbatch_max": max(64, task.batch),
        "target_loss": task.target,
    } | setting.request


def run_shoal(setting: Setting) -> Result:
    """One run.

    Raises:
        LabError: the laboratory or the fleet could not be had, or the job never began.
    """
    task = setting.trained
    steps = WORKERS * reference_steps(setting.task, setting.seed)
    folder = (setting.out / f"shoal-{setting.scenario.name}-{setting.task}-{setting.congestion}-{setting.seed}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (
        NetLab(WORKERS + 1, setting.lab, congestion=setting.congestion, seed=setting.seed + 1) as lab,
        Fleet(lab, folder, setting.scenario, task.step_ms, setting.settings, setting.site) as fleet,
    ):
        # Joining is not part of the contest: the links turn bad once everybody is there.
        for worker, profile in enumerate(setting.scenario.links):
            lab.set(worker, profile)
        fleet.submit(request_of(setting))
        start = fleet.wait_for("RoundOpened", BEGIN_WITHIN)["at"]
        before, used = lab.stats(), processor_seconds(lab)
        reached = _train(fleet, lab, setting, start)
        end = reached if reached is not None else time.time()
        used = difference(used, processor_seconds(lab))
        load, memory, after = os.getloadavg()[0], fleet.peak_memory(), lab.stats()
        lab.heal()
        lab.set("all", "perfect")
        if reached is None:
            fleet.cancel()
        _hear_out(fleet)
    sent, received = (megabytes(before, after, way) for way in ("tx_offered_bytes", "rx_bytes"))
    curve = [(e["at"] - start, e["loss"]) for e in fleet.heard if e["type"] == "Validated" and e["at"] <= end]
    found = where(fleet.heard, start, end, task.batch)
    return Result(
        tool="shoal",
        scenario=setting.scenario.name,
        task=setting.task,
        congestion=setting.congestion,
        seed=setting.seed,
        reached=reached is not None,
        seconds=end - start,
        ideal=setting.scenario.ideal_seconds(steps, task),
        ideal_undisturbed=Scenario("", "").ideal_seconds(steps, task),
        loss=curve[-1][1] if curve else None,
        rounds=found.rounds,
        sent_mb=tuple(sent),
        load=load,
        date=time.strftime("%Y-%m-%d"),
        command=" ".join(sys.argv[1:]),
        curve=curve,
        details={
            "received_mb": received,
            "peak_memory_mb": memory,
            "where": asdict(found),
            "samples_of_ideal": found.counted / (steps * task.batch),
            "capacity_used": found.counted / task.batch / _capacity(setting, end - start),
            "stall": stall(fleet.heard, start, setting.scenario),
            "processor_seconds": used,
            "steps_overran": _overran(found, setting),
            "request": setting.request,
            "step_ms": task.step_ms,
            "site": setting.site,
        },
    )


def _overran(found: Where, setting: Setting) -> float:
    """Mean time of a step over what it is padded to: above 1 the machine had too few free cores for a fair run."""
    nominal = setting.trained.step_ms / 1e3
    speeds = {f"worker-{worker}": slowdown for worker, slowdown in enumerate(setting.scenario.slowdown)}
    steps = [(node.step_seconds / nominal / speeds[node.node], node.samples) for node in found.nodes]
    return sum(over * samples for over, samples in steps) / max(1, sum(samples for _, samples in steps))


def _capacity(setting: Setting, seconds: float) -> float:
    """Steps that the workers could have taken in the time of a run, those that were dead left out."""
    task, low, high = setting.trained, 0.0, 1.0
    while setting.scenario.ideal_seconds(high, task) < seconds:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if setting.scenario.ideal_seconds(middle, task) < seconds else (low, middle)
    return high


def _train(fleet: Fleet, lab: NetLab, setting: Setting, start: float) -> float | None:
    """Let it train, do to it what the scenario says; gives when the target was reached, if it was."""
    target = TASKS[setting.task].target
    coming = sorted(setting.scenario.events, key=lambda event: event.at)
    while (now := time.time() - start) < setting.budget:
        while coming and coming[0].at <= now:
            _do(coming.pop(0), fleet, lab)
        wake = min([setting.budget, *(event.at for event in coming)])
        event = fleet.next_event(wake - (time.time() - start))
        if event is None:
            continue
        if event["type"] == "Validated" and event["loss"] <= target:
            at: float = event["at"]
            return at
        if event["type"] == "DeskEnded" or (event["type"] == "JobState" and event["state"] in ("failed", "cancelled")):
            return None
    return None


def _do(event: Event, fleet: Fleet, lab: NetLab) -> None:
    match event.do:
        case "kill":
            fleet.crash(event.worker)
        case "return":
            fleet.start_node(event.worker)
        case "link":
            lab.set(event.worker, event.profile)


def _hear_out(fleet: Fleet) -> None:
    """Events that are under way, up to the job's report."""
    with contextlib.suppress(Exception):  # a run that is over is measured, whatever its end looks like
        fleet.wait_for("ReportReady", REPORT_WITHIN)


def stall(events: Sequence[dict[str, Any]], start: float, scenario: Scenario) -> float | None:
    """Seconds by which the longest time without a closed round, once a worker was killed, exceeds the usual."""
    killed = [event.at for event in scenario.events if event.do == "kill"]
    if not killed:
        return None
    rounds = {e["round"]: e["at"] - start for e in reversed(events) if e["type"] == "RoundClosed"}
    times = sorted(at for at in rounds.values() if at >= 0)
    gaps = [(earlier, later - earlier) for earlier, later in itertools.pairwise([0.0, *times])]
    usual = [gap for at, gap in gaps if at + gap <= killed[0]]
    after = [gap for at, gap in gaps if at + gap > killed[0]]
    return max(after) - statistics.median(usual) if usual and after else None

"""How soon the healer heals, with what it learns and without, and how well faults are foreseen. All of it simulated.

`python -m benchmarks.healing [--json]`: the healer's own core in virtual time against faults whose remedies help by
chances that it isn't told, other ones than it assumes; the predictor's arithmetic on figures of machines that leak
memory, half of them until it runs out, by the trend and by a model of other such machines; and what the
predictor costs.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

import msgspec

from agents.base import Effect, Publish, SetTimer, Timer
from agents.healer import Healer, HealerSettings
from agents.healer.policy import DISRUPTION
from agents.inputs import Woken
from agents.predictor import Model, Predictor, PredictorSettings, tracks
from agents.predictor.state import Track
from runners.predicting import Example, fit_model
from schemas.healing import HealingOrdered, Remedy
from schemas.health import WorkStalled
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.network import LinkProbed
from schemas.nodes import NodeHeartbeat, NodeProfile
from schemas.training import Average, Contribution, Roster, RoundClosed
from schemas.wire import seal

HELPS: Mapping[Remedy, float] = {"restart": 0.15, "move": 0.95}
"""In truth; assumed are 0.7 and 0.5."""
BY_ITSELF = 0.4
"""Part of faults that is over before the healer acts."""
FAULTS, PER_WINDOW = 200, 50
NODES = tuple(f"n{i}" for i in range(20))


class Fleet:
    """A healer and a job whose processes stall now and then."""

    def __init__(self, seed: int, learning: bool) -> None:
        self.rng = random.Random(seed)
        self.core = Healer(HealerSettings(), random.Random(seed))
        self.learning, self.now, self.round, self.count = learning, 0.0, 0, 0
        self.timers: dict[Timer, float] = {}
        self.orders: list[Remedy] = []
        self.give(Woken(incarnation=1, resumed=False, at=0.0))
        request = JobRequest(kind="train", workload="w:w", rounds=9, min_nodes=2)
        self.give(
            JobState(
                job="j", version=1, state=JobPhase.RUNNING, reason="", round=0, rounds=9, request=request, submitted_at=0.0
            )
        )
        self.give(Roster(job="j", version=1, nodes=NODES, reducers=NODES[:3], quorum=2, reason=""))

    def give(self, event: Any) -> None:
        """One input."""
        self.count += 1
        if not isinstance(event, Timer | Woken):
            seal(event, id=f"x:1:{self.count}", cause="", at=self.now, source="x")
        for effect in self.core.handle(event, self.now):
            self._heed(effect)

    def _heed(self, effect: Effect) -> None:
        if isinstance(effect, SetTimer):
            self.timers[effect.timer] = effect.at
        elif isinstance(effect, Publish) and isinstance(effect.message, HealingOrdered):
            self.orders.append(effect.message.remedy)

    def until(self, end: float) -> Iterator[None]:
        """Timers in order; yields after each."""
        while due := sorted((at, str(timer), timer) for timer, at in self.timers.items() if at <= end):
            at, _, timer = due[0]
            del self.timers[timer]
            self.now = max(self.now, at)
            self.give(timer)
            yield
        self.now = end

    def rounds(self) -> None:
        """Two, with everybody's contributions."""
        for _ in range(2):
            self.round += 1
            parts = tuple(Contribution(node=n, round=self.round, late=0, samples=1, weight=0.05, loss=1) for n in NODES)
            average = Average(key="1", size=1, digest="", holders=())
            self.give(
                RoundClosed(
                    job="j", round=self.round, term=0, reducer="n0", next_reducer="n0", contributions=parts, missing=(),
                    average=average, samples=1, loss=1, seconds=1, on_time=True, reason="",
                )
            )  # fmt: skip

    def fault(self) -> tuple[float, float]:
        """One fault to its end: seconds until health, and seconds of work that orders destroyed."""
        node, began = self.rng.choice(NODES), self.now
        if not self.learning:
            self.core.state.lessons.clear()
        self.core.state.levels.clear()  # the same back-off for every fault, or the first ones would be the quick ones
        self.give(WorkStalled(node=node, job="j", silent_seconds=30, usual_seconds=1, reason="no step"))
        well = self.now + self.rng.uniform(5, 40) if self.rng.random() < BY_ITSELF else None
        seen, lost, end = len(self.orders), 0.0, began + 7200
        while well is None and self.timers and self.now < end:
            for _ in self.until(min(self.timers.values())):
                for remedy in self.orders[seen:]:
                    lost += DISRUPTION[remedy]
                    if self.rng.random() < HELPS[remedy]:
                        well = self.now + self.rng.uniform(5, 30)
                seen = len(self.orders)
                break
        if well is None:
            return end - began, lost
        for _ in self.until(well):
            pass
        self.rounds()
        for _ in self.until(self.now + 600):
            pass
        return well - began, lost


def healing(seeds: range) -> dict[str, Any]:
    """Seconds from fault to health and seconds of work destroyed by orders, by windows of faults."""
    found: dict[str, Any] = {}
    for name, learning in (("learning", True), ("assumptions alone", False)):
        runs = []
        for seed in seeds:
            fleet = Fleet(seed, learning)
            runs.append([fleet.fault() for _ in range(FAULTS)])
        windows = range(0, FAULTS, PER_WINDOW)
        found[name] = {
            "seconds to health": [round(mean(x[0] for r in runs for x in r[w : w + PER_WINDOW]), 1) for w in windows],
            "seconds of work lost": [round(mean(x[1] for r in runs for x in r[w : w + PER_WINDOW]), 1) for w in windows],
        }
    return found


def leaks(rng: random.Random, count: int, dies_at: float) -> list[Example]:
    """Ends of blocks of processes that leak: half of them until they die, half of them until they need no more."""
    settings, found, at = PredictorSettings(), [], 0.0
    for _ in range(count):
        track, dies, level = Track(kind="memory"), rng.random() < 0.5, rng.uniform(0.2, 0.4)
        stops = rng.uniform(0.5, 0.95) * dies_at
        ends: list[tuple[float, tuple[float, float, float]]] = []
        pace = rng.uniform(0.0005, 0.002)
        for _ in range(2000):
            at += 1.0
            level += pace * (dies or level < stops)
            if level >= dies_at:
                break
            if tracks.take(track, level + rng.gauss(0, 0.005), at, settings):
                features = tracks.features(track, settings)
                if features is not None:
                    ends.append((at, features))
        died = at if level >= dies_at else float("inf")
        found += [Example(end, made, died <= end + settings.horizon_seconds) for end, made in ends]
        at += 1000.0
    return found


def scored(model: Model, found: list[Example], threshold: float) -> dict[str, float]:
    """Precision and recall at a threshold."""
    told = [(tracks.chance(model, example.features) >= threshold, example.came) for example in found]
    hits, alarms = sum(t and c for t, c in told), sum(t and not c for t, c in told)
    came = sum(c for _, c in told)
    return {"precision": round(hits / max(1, hits + alarms), 3), "recall": round(hits / max(1, came), 3)}


def foreseeing(seed: int) -> dict[str, Any]:
    """By the trend and by a model, where processes die at all of the memory, and at three quarters of it."""
    found: dict[str, Any] = {}
    for dies_at in (1.0, 0.75):
        rng = random.Random(seed)
        first, rest = leaks(rng, 60, dies_at), leaks(rng, 60, dies_at)
        model = fit_model(first)
        assert model is not None
        found[f"dies at {100 * dies_at:.0f} %"] = {
            "trend": scored(tracks.PRIOR, rest, PredictorSettings().threshold),
            "model": scored(model, rest, PredictorSettings().threshold),
        }
    return found


def cost() -> dict[str, float]:
    """Of the predictor, in processor time and state: a thousand nodes, a hundred heartbeats each with probes."""
    core, nodes, beats = Predictor(PredictorSettings(), random.Random(1)), 1000, 100
    names, rng = [f"n{i}" for i in range(nodes)], random.Random(2)
    for name in names:
        core.handle(NodeProfile(node=name, version=1, host="h", site="s", cpus=4, memory_bytes=16 << 30), 0.0)
    spent = 0.0
    for second in range(beats):
        events = [
            event
            for name in names
            for event in (
                NodeHeartbeat(
                    node=name, sequence=second, interval=1.0, cpu_percent=50.0, memory_used_bytes=rng.randrange(8 << 30),
                    temperature_c=60.0, disk_used_part=0.5,
                ),
                LinkProbed(node=name, sequence=second, rtt_ms=20.0),
            )
        ]  # fmt: skip
        began = time.process_time()
        for event in events:
            core.handle(event, float(second))
        spent += time.process_time() - began
    state = len(msgspec.msgpack.encode(core.state))
    return {"us an input": round(1e6 * spent / (2 * nodes * beats), 1), "bytes a node": round(state / nodes)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.healing", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    found = {"healing": healing(range(options.seeds)), "foreseeing": foreseeing(1), "predictor": cost()}
    if options.json:
        print(json.dumps(found))
        return
    for name, figures in found["healing"].items():
        for what, values in figures.items():
            print(f"{name}: {what} by {PER_WINDOW} faults: {', '.join(map(str, values))}")
    for name, figures in found["foreseeing"].items():
        for basis, values in figures.items():
            print(f"{name}, {basis}: precision {values['precision']}, recall {values['recall']}")
    print(f"predictor: {found['predictor']}")


if __name__ == "__main__":
    main()

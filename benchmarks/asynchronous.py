"""`sync = "async"` beside `"overlap"` and `"round"` on very uneven fleets: samples a second, and what they teach.

    python -m benchmarks.asynchronous [--json] [--seeds 3] [--fleets moody far even] [--batch hybrid]

Virtual time, simulated machines and links, the product's own cores, and a real small model (`benchmarks.learning_fleet`).
As in real processes, working parameters move along with the anchor in the midst of local steps, and with `overlap` and
`async` go on from where the last difference was made. Each row is the median over the seeds: samples that were counted
a second, of those computed how many were counted, averages that every node downloads a minute, how late a contribution
was, the held-out loss after a third and all of the time, and virtual seconds to a held-out loss of 0.2.
"""

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, get_args

import msgspec

from agents.inputs import Result
from agents.trainer import works as training
from benchmarks.learning_fleet import Course, Finish, LearningProcess, PacedMachine
from benchmarks.small_model import Digits, Vector
from benchmarks.strategies import ADAM, HOME, LIMIT, OFFICE, PHONE, POOR, TARGET, Speed, times
from bus.simulated_faults import NONE, Faults
from bus.simulated_streams import Stored
from runners.simulation import World
from runners.simulation.clocks import SkewedClock
from runners.simulation.job_process import JobProcess
from runners.simulation.machines import Machine
from schemas.jobs import BatchStrategy, JobRequest, SyncMode
from schemas.training import RoundClosed

MODES: tuple[SyncMode, ...] = ("round", "overlap", "async")
SEGMENTS = 4  # parts of local steps, between which working parameters move along with the anchor
MOOD = 20.0  # mean seconds that an unstable link stays as it is
MOODS = (OFFICE, HOME, PHONE)

FLEETS: dict[str, tuple[str, tuple[Speed, ...], tuple[int, ...]]] = {
    "moody": (
        "1 to 10 times as slow (1, 1, 2, 5, 10), office links, that of a fast one changing",
        tuple(times(factor, OFFICE) for factor in (1, 1, 2, 5, 10)),
        (1,),
    ),
    "uneven": ("the same with steady links", tuple(times(factor, OFFICE) for factor in (1, 1, 2, 5, 10)), ()),
    "far": ("1 to 5 times as slow (1, 1, 2, 5), poor links", tuple(times(factor, POOR) for factor in (1, 1, 2, 5)), ()),
    "even": ("four equal machines on office links", (times(1, OFFICE),) * 4, ()),
}


class _MovingProcess(LearningProcess):
    """A job's process whose working parameters do what a real one's do (`runners.jobs.overlap`)."""

    working: Vector | None = None
    travelling: tuple[int, Vector] | None = None
    """The round of an own difference that no applied average has replaced, and that."""

    def _local_round(self, work: training.LocalRound, finish: Finish) -> None:
        if self.course.begun is None:
            self.course.begun = self.fleet.network.now
        refused = self.travelling is not None and self.travelling[0] >= work.round
        if self.working is None or refused or not work.going_on:
            self.working, self.travelling = self.anchor.copy(), None
        losses: list[float] = []

        def some(steps: int) -> Callable[[], None]:
            def take() -> None:
                if self.working is not None and steps:
                    moved, loss = self.course.problem.steps(self.working, self.local, steps, work.microbatch)
                    self.working += moved
                    self.course.samples += steps * work.microbatch
                    losses.append(loss)

            return take

        def done(seconds: float, result: Result | None) -> None:
            for place in range(SEGMENTS):
                count = work.steps * (place + 1) // SEGMENTS - work.steps * place // SEGMENTS
                self.after(seconds * place / SEGMENTS, some(count))

            def over() -> None:
                assert result is not None
                assert self.working is not None
                if not work.going_on:
                    self._keep(work.round, self.working - self.anchor)
                finish(0.0, msgspec.structs.replace(result, loss=statistics.fmean(losses)))

            self.after(seconds, over)

        JobProcess._local_round(self, work, done)

    def _take_difference(self, done: training.StepsDone, finish: Finish) -> None:
        assert self.working is not None
        own = self.working - self.anchor
        self._keep(done.round, own)
        self.travelling = done.round, own
        super()._take_difference(done, finish)

    def _move(self, anchor: Vector) -> None:
        if self.working is not None:
            self.working = self.working + (anchor - self.anchor)
            if self.travelling is not None and self.version >= self.travelling[0]:
                self.working -= self.travelling[1]
                self.travelling = None
        super()._move(anchor)


@dataclass
class _MovingCourse(Course):
    """A training by such processes."""

    def process(self, *arguments: Any) -> JobProcess:
        """What `World` is to be given."""
        return _MovingProcess(self, *arguments)


@dataclass(frozen=True)
class Row:
    """One fleet with one mode and seed."""

    fleet: str
    mode: str
    seed: int
    counted: float
    """Samples that versions listed, a second."""
    kept: float
    """Of the samples computed, the part that versions listed."""
    averages: float
    """That everybody downloads, a minute."""
    late: float
    """Versions that a contribution was late, the mean."""
    losses: tuple[float, float]
    """Held out, after a third of the time and after all of it: the mean of the last five anchors."""
    to_target: float | None
    """Virtual seconds; None where it wasn't reached."""


def run(name: str, mode: SyncMode, seed: int, seconds: float, problem: Digits, batch: BatchStrategy) -> Row:
    """One fleet with one mode."""
    _, speeds, moody = FLEETS[name]
    names = [f"n{number}" for number in range(len(speeds))]
    course = _MovingCourse(problem, ADAM, seed)

    def machine(which: str, rng: random.Random, _: Faults) -> Machine:
        speed = speeds[names.index(which)]
        return PacedMachine(
            which, random.Random(rng.random()), SkewedClock(0.0, 0.0), *speed.link, speed.sample, step_seconds=speed.step
        )

    asked = JobRequest(
        kind="train", workload="simulated:job", rounds=100_000, local_steps=10, microbatch=8, min_nodes=len(names),
        sync=mode, batch=batch, checkpoint_every=0, verify_every=0,
        target_loss=0.0 if batch == "goodput" else None,  # never reached: so that it may choose how long rounds are
    )  # fmt: skip
    world = World(seed, names, 1.0, NONE, check=0, trace=False, request=asked, machine=machine, process=course.process)
    closed: list[RoundClosed] = []

    def look(stored: Stored) -> None:
        if stored.wire.type is RoundClosed:
            closed.append(stored.wire.decode_bytes(stored.data))

    world.network.readers.observers.append(look)
    for place in moody:
        _unsettle(world, names[place], random.Random(f"{seed}/{place}"))
    world.begin()
    world.until(lambda: course.begun is not None, LIMIT)
    world.advance(seconds)
    parts = [part for each in closed for part in each.contributions]
    counted = sum(part.samples for part in parts)
    return Row(
        fleet=name,
        mode=mode,
        seed=seed,
        counted=counted / seconds,
        kept=counted / max(1, course.samples),
        averages=60 * len(closed) / seconds,
        late=statistics.fmean(part.late for part in parts),
        losses=(_loss(course, seconds / 3), _loss(course, seconds)),
        to_target=course.seconds_to(TARGET),
    )


def _unsettle(world: World, name: str, rng: random.Random) -> None:
    """A link that is another one every now and then."""
    link = world.fleet.machines[name]

    def change(_: object) -> None:
        link.relink(*rng.choice(MOODS))
        world.network.at(world.network.now + rng.expovariate(1 / MOOD), change)

    change(None)


def _loss(course: Course, until: float) -> float:
    return statistics.fmean([loss for at, _, loss in course.seen if at <= until][-5:])


def medians(rows: list[Row]) -> list[dict[str, Any]]:
    """One line for each fleet and mode."""
    lines = []
    for fleet, mode in dict.fromkeys((row.fleet, row.mode) for row in rows):
        of_one = [asdict(row) for row in rows if (row.fleet, row.mode) == (fleet, mode)]
        middle = {key: statistics.median(one[key] for one in of_one) for key in ("counted", "kept", "averages", "late")}
        losses = [round(statistics.median(one["losses"][place] for one in of_one), 4) for place in (0, 1)]
        to_target = statistics.median(one["to_target"] or math.inf for one in of_one)
        reached = to_target if to_target < math.inf else None
        lines.append({"fleet": fleet, "mode": mode, **middle, "losses": losses, "to_target": reached})
    return lines


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fleets", nargs="+", choices=tuple(FLEETS), default=list(FLEETS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seconds", type=float, default=240.0, help="virtual, from the first step on")
    parser.add_argument("--batch", choices=get_args(BatchStrategy), default="hybrid")
    options = parser.parse_args()
    problem = Digits()
    rows = [
        run(name, mode, seed, options.seconds, problem, options.batch)
        for name in options.fleets
        for mode in options.modes
        for seed in range(options.seeds)
    ]
    lines = medians(rows)
    if options.json:
        fleets = {name: FLEETS[name][0] for name in options.fleets}
        print(json.dumps({"fleets": fleets, "rows": [asdict(row) for row in rows], "medians": lines}, indent=2))
        return
    for line in lines:
        cells = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in line.items())
        print("  ".join(cells))


if __name__ == "__main__":
    main()

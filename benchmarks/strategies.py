"""The batch strategies against each other: how long fleets take to a held-out loss, in virtual time with real cores.

    python -m benchmarks.strategies [--json] [--seeds 3] [--fleets uneven mixed] [--sgd] [--plot FILE.png]
    python -m benchmarks.strategies --task text --seeds 1 --fleets uneven far      a small language model
    python -m benchmarks.strategies --as-asked                                     rounds of ten steps throughout

Each cell is the median over the seeds of the virtual seconds from the first step to a held-out loss of 0.2 on handwritten
digits (`benchmarks.learning_fleet`: real gradients, averaged by real rounds), or of 2.75 on the standard library's sources,
and how often that is of the row's best. A target loss ends the jobs, so that rounds may have any length; with
`--as-asked` rounds end them.
Tensors are of a million parameters, links have the round trips and rates given and no loss. What a round costs a real
machine beyond its steps and transfers is played by constants (`runners/simulation`).
"""

import argparse
import json
import random
import statistics
from dataclasses import dataclass
from typing import get_args

from benchmarks.learning_fleet import Course, PacedMachine
from benchmarks.small_model import Digits, Optimizer, Problem
from bus.simulated_faults import NONE, Faults
from runners.simulation import World
from runners.simulation.clocks import SkewedClock
from runners.simulation.machines import LINKS, Machine
from schemas.jobs import BatchStrategy, JobRequest

TARGET = 0.2
TARGETS = {"digits": TARGET, "text": 2.75}
LIMIT = 1500.0  # virtual seconds; the slowest cell takes a fifth of it
# Rates that a person would choose for steps of 8 samples: half of the largest that a lone machine learns well with.
ADAM, SGD = Optimizer(0.004, adam=True), Optimizer(0.2)
RACK, OFFICE, HOME, POOR, PHONE = LINKS


@dataclass(frozen=True)
class Speed:
    """A machine: seconds a step and a sample, and its link (round trip s, jitter s, bytes a second)."""

    step: float
    sample: float
    link: tuple[float, float, float]


def times(factor: float, link: tuple[float, float, float]) -> Speed:
    """A machine on which a step of 8 samples takes 0.1 s, mostly for the samples, or `factor` times that."""
    return Speed(0.02 * factor, 0.01 * factor, link)


FLEETS: dict[str, tuple[str, tuple[Speed, ...]]] = {
    "even": ("four equal machines in a rack", (times(1, RACK),) * 4),
    "uneven": ("one of four 3 times slower, office links", (*(times(1, OFFICE),) * 3, times(3, OFFICE))),
    "launch": ("four accelerators: a step takes 80 ms and hardly more with more samples", (Speed(0.08, 0.0005, RACK),) * 4),
    "far": ("four equal machines on poor links (200 ms, 1 MB/s)", (times(1, POOR),) * 4),
    "pair": ("two machines at home (80 ms, 5 MB/s)", (times(1, HOME),) * 2),
    "mixed": (
        "1 to 3 times as slow, from rack to phone",
        tuple(times(*each) for each in ((1, RACK), (1.25, OFFICE), (1.6, HOME), (2, POOR), (3, PHONE))),
    ),
}


def request(strategy: BatchStrategy, nodes: int, *, as_asked: bool = False) -> JobRequest:
    """The job: all defaults but the strategy and how it is cut."""
    return JobRequest(
        kind="train",
        workload="simulated:job",
        rounds=100_000,
        local_steps=10,
        microbatch=8,
        min_nodes=nodes,
        batch=strategy,
        target_loss=None if as_asked else 0.0,  # never reached: the benchmark looks by itself when its own target is
        checkpoint_every=0,
    )


@dataclass(frozen=True)
class Cell:
    """One run."""

    fleet: str
    strategy: str
    seed: int
    seconds: float
    """Virtual, to the target; the limit where it wasn't reached."""
    rounds: int
    samples: int


def run(
    name: str,
    strategy: BatchStrategy,
    seed: int,
    problem: Problem,
    optimizer: Optimizer,
    target: float = TARGET,
    *,
    as_asked: bool = False,
) -> Cell:
    """One fleet with one strategy."""
    _, speeds = FLEETS[name]
    names = [f"n{number}" for number in range(len(speeds))]
    course = Course(problem, optimizer, seed)

    def machine(which: str, rng: random.Random, _: Faults) -> Machine:
        speed = speeds[names.index(which)]
        return PacedMachine(
            which, random.Random(rng.random()), SkewedClock(0.0, 0.0), *speed.link, speed.sample, step_seconds=speed.step
        )

    world = World(
        seed,
        names,
        1.0,
        NONE,
        check=0,
        trace=False,
        request=request(strategy, len(names), as_asked=as_asked),
        machine=machine,
        process=course.process,
    )
    world.begin()
    world.until(lambda: course.seconds_to(target) is not None, LIMIT, step=2.0)
    seconds = course.seconds_to(target)
    return Cell(name, strategy, seed, LIMIT if seconds is None else seconds, len(course.seen), course.samples)


def medians(cells: list[Cell]) -> dict[str, dict[str, float]]:
    """Seconds by fleet and strategy."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        found.setdefault(cell.fleet, {}).setdefault(cell.strategy, []).append(cell.seconds)
    return {fleet: {name: statistics.median(all_) for name, all_ in row.items()} for fleet, row in found.items()}


def print_table(cells: list[Cell]) -> None:
    """For people."""
    rows = medians(cells)
    print(f"{'':8}" + "".join(f"{strategy:>18}" for strategy in next(iter(rows.values()))))
    for name, seconds in rows.items():
        best = min(seconds.values())
        print(f"{name:8}" + "".join(f"{took:9.1f} s {took / best:6.2f}" for took in seconds.values()))


def plot(cells: list[Cell], path: str) -> None:
    """Each row's times over its best."""
    from matplotlib.figure import Figure

    rows = medians(cells)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    strategies = list(next(iter(rows.values())))
    for place, strategy in enumerate(strategies):
        over = [row[strategy] / min(row.values()) for row in rows.values()]
        axes.bar([at + 0.16 * (place - 2) for at in range(len(rows))], over, width=0.16, label=strategy)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_yscale("log", base=2)
    axes.set_ylabel("time to the loss, over the best")
    axes.legend(ncols=len(strategies), fontsize="small")
    figure.savefig(path, dpi=120)


def problem_of(task: str) -> Problem:
    """What is trained."""
    if task == "digits":
        return Digits()
    from benchmarks.small_language import Language

    return Language()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fleets", nargs="+", choices=tuple(FLEETS), default=list(FLEETS))
    parser.add_argument("--strategies", nargs="+", choices=get_args(BatchStrategy), default=list(get_args(BatchStrategy)))
    parser.add_argument("--sgd", action="store_true", help="plain SGD instead of Adam")
    parser.add_argument("--task", choices=tuple(TARGETS), default="digits")
    parser.add_argument("--as-asked", action="store_true", help="no target ends the jobs: rounds have the steps asked for")
    parser.add_argument("--plot", metavar="FILE.png")
    options = parser.parse_args()
    problem, optimizer, target = problem_of(options.task), SGD if options.sgd else ADAM, TARGETS[options.task]
    cells = [
        run(name, strategy, seed, problem, optimizer, target, as_asked=options.as_asked)
        for name in options.fleets
        for strategy in options.strategies
        for seed in range(options.seeds)
    ]
    if options.json:
        fleets = {name: FLEETS[name][0] for name in options.fleets}
        print(json.dumps({"target": target, "fleets": fleets, "cells": [vars(cell) for cell in cells]}, indent=2))
    else:
        print_table(cells)
    if options.plot:
        plot(cells, options.plot)


if __name__ == "__main__":
    main()

"""What a step is worth: measured on a small model, against the model that the strategy `goodput` goes by.

    python -m benchmarks.worth [--json] [--sgd] [--seeds 3] [--nodes 4 8]

K nodes train on handwritten digits (`benchmarks.small_model`), H local steps of b samples each, and average their
parameters; everybody is in time and nothing takes any. A step's worth is how many steps a lone machine makes of 8 samples
until the held-out loss is 0.4, 0.25 and 0.18, over those that each node makes here. Beside it is what
`agents.batch_controller.goodput` says of it, with the noise scale that the spread of the differences showed by then.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agents.batch_controller import goodput, noise
from agents.batch_controller.goodput import Part
from benchmarks.small_model import Digits, Local, Optimizer, Vector
from benchmarks.strategies import ADAM, SGD
from schemas.training import Average, Contribution, RoundClosed

ASKED = 8
TARGETS = (0.4, 0.25, 0.18)
STEPS = 1600  # of each node; twice as many in rounds of 64
SIZES, LENGTHS = (2, 8, 32), (1, 4, 16, 64)


@dataclass(frozen=True)
class Row:
    """One setting; medians over the seeds, one value a target."""

    nodes: int
    microbatch: int
    steps: int
    worth: list[float]
    noise_scale: list[float]
    modelled: list[float]


def closing(differences: list[Vector], average: Vector, steps: int, size: int) -> RoundClosed:
    """A round's listing, as far as the noise scale needs it."""
    parts = tuple(
        Contribution(
            node=f"n{place}",
            round=1,
            late=0,
            samples=steps * size,
            steps=steps,
            weight=1 / len(differences),
            loss=1.0,
            norm=float(np.linalg.norm(difference)),
        )
        for place, difference in enumerate(differences)
    )
    return RoundClosed(
        job="worth",
        round=1,
        term=1,
        reducer="n0",
        next_reducer="n0",
        contributions=parts,
        missing=(),
        average=Average(key="", size=0, digest="", holders=(), norm=float(np.linalg.norm(average))),
        samples=steps * size * len(differences),
        loss=1.0,
        seconds=1.0,
        on_time=True,
        reason="",
    )


def train(problem: Digits, optimizer: Optimizer, seed: int, part: Part, nodes: int) -> Iterator[tuple[int, float, float]]:
    """(steps so far, held-out loss, noise scale) after each round."""
    anchor, spread, steps = problem.start(seed), noise.Spread(), round(part.steps)
    walks = [Local(optimizer, 1000 * seed + place) for place in range(nodes)]
    for made in range(steps, STEPS * (2 if steps >= LENGTHS[-1] else 1) + 1, steps):
        differences = [problem.steps(anchor, walk, steps, part.microbatch)[0] for walk in walks]
        average: Vector = np.mean(differences, axis=0)
        noise.observe(spread, closing(differences, average, steps, part.microbatch))
        anchor = anchor + average
        yield made, problem.held_out(anchor), noise.scale(spread, ASKED) if nodes > 1 else math.nan


def reached(course: Iterator[tuple[int, float, float]]) -> list[tuple[float, float]]:
    """(steps, noise scale) when the mean loss of a fortieth of the rounds was at each target; not a number: never."""
    seen = list(course)
    over = max(1, len(seen) // 40)
    losses = np.array([loss for _, loss, _ in seen])
    found = []
    for target in TARGETS:
        means = (losses[max(0, end - over) : end].mean() for end in range(1, len(seen) + 1))
        at = next((place for place, mean in enumerate(means) if mean <= target), None)
        found.append((float(seen[at][0]), seen[at][2]) if at is not None else (math.nan, math.nan))
    return found


def measure(problem: Digits, optimizer: Optimizer, seeds: int, part: Part, nodes: int, alone: list[list[float]]) -> Row:
    """A setting against a lone machine's steps to each target, by seed."""
    runs = [reached(train(problem, optimizer, seed, part, nodes)) for seed in range(seeds)]
    worth = [statistics.mean(alone[s][t] / runs[s][t][0] for s in range(seeds)) for t in range(len(TARGETS))]
    scales = [statistics.median(run[t][1] for run in runs) for t in range(len(TARGETS))]
    modelled = [goodput.progress([part] * nodes, scale, ASKED) / part.steps for scale in scales]
    return Row(nodes, part.microbatch, round(part.steps), worth, scales, modelled)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sgd", action="store_true", help="plain SGD instead of Adam")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 8])
    options = parser.parse_args()
    problem, optimizer = Digits(), SGD if options.sgd else ADAM
    lone = [reached(train(problem, optimizer, seed, Part(ASKED, ASKED), 1)) for seed in range(options.seeds)]
    alone = [[steps for steps, _ in run] for run in lone]
    rows = []
    for nodes in options.nodes:
        for size in SIZES:
            for steps in LENGTHS if nodes > 1 else (ASKED,):
                row = measure(problem, optimizer, options.seeds, Part(steps, size), nodes, alone)
                rows.append(row)
                if not options.json:
                    told = (f"{a:5.2f} (model {b:4.2f})" for a, b in zip(row.worth, row.modelled, strict=True))
                    print(f"{nodes:2} nodes, {steps:2} steps of {size:2}: {'  '.join(told)}", flush=True)
    if options.json:
        print(json.dumps({"targets": TARGETS, "adam": optimizer.adam, "rows": [vars(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()

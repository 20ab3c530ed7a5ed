"""How right `shoal replay --policy` is: its prediction of another policy's time, and the time with that policy.

    python -m benchmarks.supposing [--json] [--seeds 3 4 5] [--rounds 30]

**Simulated**, with the real cores: a fleet of six machines with links from good to bad trains a job by `--was`; the batch
controller's journal of that run is replayed under each other strategy, and a run of the same fleet and the same chance has
that strategy indeed. Times are those for the same progress (strategy `goodput`'s model of it), over the first run's.
`outside`: the run's isn't in the 90 % interval of the prediction. Rosters, reducers and the optimizer are other ones in the
second run, which the prediction doesn't know.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from bus.simulated_faults import NONE
from runners.simulation import World
from runners.simulation.journaling import journal
from runners.simulation.world import REQUEST
from runners.supposing import AGENT, Supposed, policy_of, suppose
from schemas.jobs import BatchStrategy

STRATEGIES: tuple[BatchStrategy, ...] = ("fixed", "latency", "throughput", "hybrid", "goodput")
NODES = 6
MOST = 7200.0  # virtual seconds for a job
PER_STEP = 50  # local steps a round


@dataclass(frozen=True)
class Row:
    """One strategy in one fleet."""

    seed: int
    was: str
    supposed: str
    predicted: float
    """Time for the same progress over that of the run that was."""
    low: float
    high: float
    came: float
    """What it came to."""
    within: bool


def trained(seed: int, batch: BatchStrategy, rounds: int, store: Path) -> None:
    """One simulated job, with its batch controller's journal in `store`."""
    request = msgspec.structs.replace(
        REQUEST, rounds=rounds, batch=batch, local_steps=PER_STEP, min_nodes=NODES, max_nodes=NODES
    )
    world = World(seed, NODES, 1.0, NONE, check=0, trace=False, beat=5.0, probe=5.0, request=request)
    close = journal(world, AGENT, store)
    world.begin()
    world.client.stop()
    if not world.until(lambda: bool(world.client.states) and not world.client.open, MOST, 10.0):
        raise SystemExit(f"seed {seed}, {batch}: the job has not ended")
    close()


def seconds_a_step(seed: int, batch: BatchStrategy, rounds: int, suppositions: tuple[str, ...]) -> list[Supposed]:
    """A run by one strategy, supposed to have had others."""
    with tempfile.TemporaryDirectory() as folder:
        trained(seed, batch, rounds, Path(folder))
        journalled = Path(folder) / "agents" / AGENT
        return [suppose(journalled, Path(folder), policy_of([f"batch={each}"])) for each in suppositions]


def measure(seed: int, was: BatchStrategy, rounds: int) -> list[Row]:
    """One fleet."""
    others = tuple(each for each in STRATEGIES if each != was)
    predicted = seconds_a_step(seed, was, rounds, (was, *others))
    (before,) = predicted[0].times.values()
    rows = []
    for strategy, found in zip(others, predicted[1:], strict=True):
        (time,) = found.times.values()
        (own,) = (each for each in seconds_a_step(seed, strategy, rounds, (strategy,))[0].times.values())
        came = (own.seconds / own.progress) / (before.seconds / before.progress)
        assert time.supposed is not None
        assert time.low is not None
        assert time.high is not None
        low, high = time.low / time.seconds, time.high / time.seconds
        rows.append(Row(seed, was, strategy, time.supposed / time.seconds, low, high, came, low <= came <= high))
    return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--was", choices=STRATEGIES, default="hybrid")
    options = parser.parse_args()
    rows = [row for seed in options.seeds for row in measure(seed, options.was, options.rounds)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{'seed':>4} {'was':12} {'supposed':12} {'predicted':>9} {'90 %':>14} {'came':>6}")
    for row in rows:
        interval = f"{row.low:.2f} to {row.high:.2f}"
        mark = "" if row.within else "  outside"
        print(f"{row.seed:4d} {row.was:12} {row.supposed:12} {row.predicted:9.2f} {interval:>14} {row.came:6.2f}{mark}")


if __name__ == "__main__":
    main()

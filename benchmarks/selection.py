"""Which nodes a job takes: the strategies of `selection` against each other, in simulation with the real cores.

    python -m benchmarks.selection [--json] [--seeds 1 2] [--fleets ...] [--strategies ...] [--minutes 15]

Each fleet has 24 nodes of which the job takes 8, but for `uncapped` and `harmful`, which may take all of their 12. A figure
is useful samples a second (late ones count less, as in the average) over all of the virtual minutes, exploration included:
the mean over the seeds. A fleet's nodes and their order are drawn anew for each seed. Evenness is Jain's index over all
nodes' contributions: 1 where all had the same number.
"""

import argparse
import random
import statistics
from collections.abc import Callable

import msgspec

from benchmarks.simulated_fleets import FAIR, GOOD, POOR, Node, Ran, run, spread, table

STRATEGIES = ("all", "quality", "top_n", "adaptive", "contribution", "useful")
SETTLE = 30.0  # virtual seconds until the first rounds have closed
LINKS = (GOOD, GOOD, FAIR, POOR)


def even(place: int, rng: random.Random) -> Node:
    """All alike."""
    return Node()


def speeds(place: int, rng: random.Random) -> Node:
    """Good links, speeds over a factor of ten."""
    return Node(sample_seconds=0.002 * 10 ** rng.random())


def links(place: int, rng: random.Random) -> Node:
    """Equal speeds, links from good to poor."""
    return Node(links=(rng.choice(LINKS),))


def mixed(place: int, rng: random.Random) -> Node:
    """Speeds and links, independent of each other."""
    return Node(sample_seconds=0.002 * 10 ** rng.random(), links=(rng.choice(LINKS),))


def inverse(place: int, rng: random.Random) -> Node:
    """The fastest machines have the worst links: what looks best from outside is the slowest."""
    speed = rng.random()
    return Node(sample_seconds=0.002 * 10**speed, links=(LINKS[3 - int(4 * speed)],))


def moody(place: int, rng: random.Random) -> Node:
    """Mixed, and every third link is good and poor by turns of some 20 s."""
    node = mixed(place, rng)
    return msgspec.structs.replace(node, links=(GOOD, POOR), random=True) if place % 3 == 0 else node


def crashing(place: int, rng: random.Random) -> Node:
    """Mixed, and the process of every third node dies every minute or so."""
    node = mixed(place, rng)
    return msgspec.structs.replace(node, crashes=60.0) if place % 3 == 0 else node


FLEETS: dict[str, tuple[Callable[[int, random.Random], Node], int, int | None]] = {
    "even": (even, 24, 8),
    "speeds": (speeds, 24, 8),
    "links": (links, 24, 8),
    "mixed": (mixed, 24, 8),
    "inverse": (inverse, 24, 8),
    "moody": (moody, 24, 8),
    "crashing": (crashing, 24, 8),
    "uncapped": (mixed, 12, None),
    "harmful": (moody, 12, None),
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy on a fleet."""

    fleet: str
    strategy: str
    useful: float
    spread: float
    """Half the range over the seeds."""
    round_seconds: float
    missed: float
    evenness: float


def measured(fleet: str, strategy: str, seeds: list[int], minutes: float) -> Row:
    """The mean over the seeds."""
    make, count, cap = FLEETS[fleet]
    found: list[Ran] = []
    for seed in seeds:
        nodes = spread(make, count, seed)
        random.Random(seed).shuffle(nodes)
        ran, _ = run(
            nodes, seed, settle=SETTLE, seconds=60 * minutes, beat=2.0, selection=strategy, max_nodes=cap, min_nodes=2
        )
        found.append(ran)
    useful = [ran.useful for ran in found]
    return Row(
        fleet=fleet,
        strategy=strategy,
        useful=statistics.fmean(useful),
        spread=(max(useful) - min(useful)) / 2,
        round_seconds=statistics.fmean(ran.round_seconds for ran in found),
        missed=statistics.fmean(ran.missed for ran in found),
        evenness=statistics.fmean(ran.evenness for ran in found),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--fleets", nargs="+", choices=FLEETS, default=list(FLEETS))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--minutes", type=float, default=15.0, help="virtual minutes measured")
    options = parser.parse_args()
    rows = [
        measured(fleet, strategy, options.seeds, options.minutes)
        for fleet in options.fleets
        for strategy in options.strategies
    ]
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return
    by_fleet = {fleet: [row for row in rows if row.fleet == fleet] for fleet in options.fleets}
    print("simulated: useful samples a second, * the best of a fleet")
    print(table({fleet: {row.strategy: row.useful for row in each} for fleet, each in by_fleet.items()}))
    print("\nhalf the range over the seeds")
    print(table({fleet: {row.strategy: row.spread for row in each} for fleet, each in by_fleet.items()}, best=False))
    print("\nevenness in per cent")
    even_rows = {fleet: {row.strategy: 100 * row.evenness for row in each} for fleet, each in by_fleet.items()}
    print(table(even_rows, best=False))


if __name__ == "__main__":
    main()

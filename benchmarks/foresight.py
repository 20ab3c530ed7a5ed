"""Acting on forecasts against reacting: the policies `proactive` and `reactive` on links that change, in simulation.

    python -m benchmarks.foresight [--json] [--seeds 1 2 3] [--fleets ...] [--minutes 15]

A job on nodes of equal speed, links from good (20 ms, 20 MB/s) to poor (200 ms, 1 MB/s). The first seven virtual minutes,
in which patterns are found and forecasts earn belief, are not measured. Useful samples a second, late ones counting less;
the regret is what `proactive` publishes of itself, in seconds of rounds, from taking turns with `reactive`: under 0 it has
gained.
"""

import argparse
import statistics

import msgspec

from benchmarks.simulated_fleets import FAIR, GOOD, POOR, Node, Ran, run, table
from schemas.decisions import ForesightJudged

SETTLE = 420.0
TURNS = (GOOD, POOR)

FLEETS: dict[str, list[Node]] = {
    "one of 4": [*[Node()] * 3, Node(links=TURNS)],
    "3 of 6": [*[Node()] * 3, *(Node(links=TURNS, phase=13.0 * place) for place in range(3))],
    "all 5": [Node(links=TURNS, phase=8.0 * place) for place in range(5)],
    "fair and good": [*[Node()] * 3, *(Node(links=(GOOD, FAIR), phase=13.0 * place) for place in range(3))],
    "every minute": [*[Node()] * 3, Node(links=TURNS, every=60.0)],
    "by chance": [*[Node()] * 3, *(Node(links=TURNS, random=True) for _ in range(3))],
    "steady": [*[Node()] * 3, Node(links=(POOR,))],
}
"""Every 20 s by turns, unless the name says otherwise; `by chance` changes after 20 s on the average."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Both policies on a fleet, means over the seeds."""

    fleet: str
    reactive: float
    proactive: float
    ratio: float
    worst_ratio: float
    """Of a seed."""
    regret_seconds: float
    """Published at the end."""
    error_seconds: float
    """Its standard error, of one seed."""
    rounds_judged: float
    acting: float
    """Part of the seeds in which forecasts were acted upon at the end, of those in which any were judged."""


def measured(fleet: str, seeds: list[int], minutes: float) -> Row:
    """Both policies with the same seeds."""

    def once(policy: str, seed: int) -> tuple[Ran, list[ForesightJudged]]:
        ran, heard = run(
            FLEETS[fleet],
            seed,
            settle=SETTLE,
            seconds=60 * minutes,
            kinds=(ForesightJudged,),
            adaptation=policy,
            min_nodes=len(FLEETS[fleet]),
        )
        return ran, heard[ForesightJudged]

    plain = [once("reactive", seed)[0].useful for seed in seeds]
    ahead = [once("proactive", seed) for seed in seeds]
    useful = [ran.useful for ran, _ in ahead]
    last = [judged[-1] for _, judged in ahead if judged]
    return Row(
        fleet=fleet,
        reactive=statistics.fmean(plain),
        proactive=statistics.fmean(useful),
        ratio=sum(useful) / sum(plain),
        worst_ratio=min(new / old for new, old in zip(useful, plain, strict=True)),
        regret_seconds=statistics.fmean(judged.regret_seconds for judged in last) if last else 0.0,
        error_seconds=statistics.fmean(judged.error_seconds for judged in last) if last else 0.0,
        rounds_judged=statistics.fmean(judged.rounds for judged in last) if last else 0.0,
        acting=statistics.fmean(judged.acting for judged in last) if last else 0.0,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--fleets", nargs="+", choices=FLEETS, default=list(FLEETS))
    parser.add_argument("--minutes", type=float, default=15.0, help="virtual minutes measured")
    options = parser.parse_args()
    rows = [measured(fleet, options.seeds, options.minutes) for fleet in options.fleets]
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return
    print("simulated: useful samples a second; regret in seconds of rounds, under 0 proactive has gained")
    shown = {row.fleet: {"reactive": row.reactive, "proactive": row.proactive} for row in rows}
    print(table(shown))
    for row in rows:
        print(
            f"{row.fleet:14} ratio {row.ratio:.3f}, of the worst seed {row.worst_ratio:.3f}; "
            f"regret {row.regret_seconds:+.1f} s (standard error {row.error_seconds:.1f} s), "
            f"{row.rounds_judged:.0f} rounds; acting at the end {row.acting:.0%}"
        )


if __name__ == "__main__":
    main()

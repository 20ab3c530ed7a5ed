"""`python -m runners.simulation --nodes 50 --hours 1 --seed 7 --faults default`: one simulation, and what it came to."""

import argparse
import sys

import msgspec

from bus.simulated_faults import PRESETS, faults_named
from runners.simulation.world import Outcome, World
from schemas.errors import ShoalError


def main(argv: list[str] | None = None) -> int:
    """Run it; exit status 1 with the seed where something was found that must not be."""
    parser = argparse.ArgumentParser(prog="python -m runners.simulation", description=__doc__)
    parser.add_argument("--nodes", type=int, default=50, help="machines")
    parser.add_argument("--hours", type=float, default=1.0, help="virtual hours with faults")
    parser.add_argument("--seed", type=int, default=7, help="of all chance: the same seed gives the same run")
    parser.add_argument("--faults", default="default", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--beat", type=float, default=1.0, help="seconds between a node's heartbeats, and its probes")
    parser.add_argument("--check", action="store_true", help="check each core's invariants after every input, too; slower")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    options = parser.parse_args(argv)
    try:
        faults = faults_named(options.faults)
        world = World(options.seed, options.nodes, options.hours, faults, check=int(options.check), beat=options.beat)
        outcome = world.run()
    except ShoalError as error:
        print(f"seed {options.seed}: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(outcome).decode() if options.json else _told(outcome))
    return 0


def _told(outcome: Outcome) -> str:
    """The outcome for people; simulated figures are called so."""
    jobs = ", ".join(f"{count} {how}" for how, count in outcome.jobs.items()) or "none"
    faults = ", ".join(f"{count} {kind}" for kind, count in outcome.faults.items()) or "none"
    rate = outcome.events / max(outcome.wall_seconds, 1e-9)
    return "\n".join(
        (
            f"simulated: {outcome.nodes} nodes, {outcome.hours:g} h with faults, seed {outcome.seed}",
            f"faults     {faults}; {outcome.dropped} messages lost",
            f"jobs       {jobs}; {outcome.rounds} rounds closed",
            f"events     {outcome.events}, {outcome.inputs} of them inputs of cores; {rate:,.0f} a second",
            f"digest     {outcome.digest}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())

"""How fairly jobs share a fleet: whole nodes against every job on every node, in simulation with the real cores.

    python -m benchmarks.sharing [--json] [--seeds 1 2] [--fleets even speeds mixed] [--minutes 15] [--nodes 9]

A job's share is its useful samples a second over what it does alone on the same fleet, and over its weight. Of all jobs:
the smallest over a fair one (1 / sum of weights), Jain's index, and the sum of what they do over what one does alone (what
the division costs or gains). `moved`: nodes that came to another job once everybody was at work. `together` is the same
fleet where nothing is divided (`jobs_together`): each simulated machine has one core, which its jobs share.

`slowed`: one of four nodes is needed by its owner; useful samples a second over those without him, where its jobs pause,
and where they keep a quarter of its speed.
"""

import argparse
import random
import statistics
from collections.abc import Sequence

import msgspec

from benchmarks.selection import even, mixed, speeds
from benchmarks.simulated_fleets import Node, spread
from bus.simulated_faults import NONE, Faults
from bus.simulated_streams import Stored
from runners.simulation import World
from runners.simulation.clocks import SkewedClock
from runners.simulation.machines import Machine
from runners.simulation.world import REQUEST
from schemas.training import Roster, RoundClosed

FLEETS = {"even": even, "speeds": speeds, "mixed": mixed}
JOBS: dict[str, tuple[float, ...]] = {"2 jobs": (1.0, 1.0), "3 jobs": (1.0, 1.0, 1.0), "weights 1, 2": (1.0, 2.0)}
SETTLE = 180.0  # virtual seconds until processes are up, nodes measured, and what was wrongly guessed has changed hands
EVERYWHERE = 64  # jobs on a node: more than there are
BEAT = 5.0  # seconds between heartbeats: their number is most of what a quiet simulation costs
JOB = msgspec.structs.replace(
    REQUEST, rounds=1_000_000, validate_every=0, checkpoint_every=0, max_nodes=None, local_steps=100, min_nodes=1
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way of sharing, the mean over the seeds."""

    fleet: str
    jobs: str
    how: str
    worst: float
    """Smallest share over the fair one."""
    jain: float
    """Jain's index of shares over weights, 1 / jobs to 1."""
    total: float
    """All jobs' shares together: 1 is what one job does alone."""
    moved: float
    """Nodes that came to another job, an hour."""


class Slowed(msgspec.Struct, frozen=True, kw_only=True):
    """What a job keeps while a node's owner needs it, the mean over the seeds; 1 is without him."""

    how: str
    useful: float


def world_of(nodes: Sequence[Node], seed: int, **settings: dict[str, object]) -> World:
    """A fleet without jobs."""
    names = [f"n{place:03d}" for place in range(len(nodes))]
    made = dict(zip(names, nodes, strict=True))

    def machine(name: str, rng: random.Random, faults: Faults) -> Machine:
        return Machine(
            name, random.Random(f"{seed}/{name}"), SkewedClock(), *made[name].links[0], made[name].sample_seconds
        )

    return World(
        seed, names, 1.0, NONE, check=0, trace=False, machine=machine, request=JOB, jobs=0, beat=BEAT, settings=settings
    )


class Counted:
    """Listens to a world: useful samples by job, and nodes that a roster takes in."""

    def __init__(self, world: World) -> None:
        self.useful: dict[str, float] = {}
        self.moved = 0
        self._rosters: dict[str, set[str]] = {}
        world.network.readers.observers.append(self._look)

    def reset(self) -> None:
        """Count from here."""
        self.useful, self.moved = {}, 0

    def _look(self, stored: Stored) -> None:
        if stored.wire.type is RoundClosed:
            closed: RoundClosed = stored.wire.decode_bytes(stored.data)
            useful = sum(part.samples / (1 + part.late) for part in closed.contributions)
            self.useful[closed.job] = self.useful.get(closed.job, 0.0) + useful
        elif stored.wire.type is Roster:
            roster: Roster = stored.wire.decode_bytes(stored.data)
            self.moved += len(set(roster.nodes) - self._rosters.get(roster.job, set()))
            self._rosters[roster.job] = set(roster.nodes)


def shared(nodes: Sequence[Node], seed: int, weights: Sequence[float], together: int, seconds: float) -> Counted:
    """Jobs of these weights on a fleet, the first there before the others."""
    world = world_of(nodes, seed, node_selector={"jobs_together": together, "jobs_crowded": EVERYWHERE})
    counted = Counted(world)
    world.begin()
    for weight in weights:
        world.advance(30.0)
        world.client.submit(weight=weight)
    world.advance(SETTLE)
    counted.reset()
    world.advance(seconds)
    return counted


def rows_of(fleet: str, seeds: Sequence[int], count: int, seconds: float) -> list[Row]:
    """All ways of sharing one fleet."""
    fleets = {seed: spread(FLEETS[fleet], count, seed) for seed in seeds}
    alone = {seed: sum(shared(nodes, seed, (1.0,), 1, seconds).useful.values()) for seed, nodes in fleets.items()}
    rows = []
    for jobs, weights in JOBS.items():
        for how, together in (("whole nodes", 1), ("together", EVERYWHERE)):
            found = []
            for seed, nodes in fleets.items():
                counted = shared(nodes, seed, weights, together, seconds)
                parts = [counted.useful.get(f"job{place + 1}", 0.0) / alone[seed] for place in range(len(weights))]
                fair = [part / weight for part, weight in zip(parts, weights, strict=True)]
                jain = sum(fair) ** 2 / (len(fair) * sum(each**2 for each in fair))
                found.append((min(fair) * sum(weights), jain, sum(parts), counted.moved * 3600 / seconds))
            worst, jain, total, moved = (statistics.fmean(values) for values in zip(*found, strict=True))
            rows.append(Row(fleet=fleet, jobs=jobs, how=how, worst=worst, jain=jain, total=total, moved=moved))
    return rows


def slowed(seeds: Sequence[int], seconds: float) -> list[Slowed]:
    """A job on four equal nodes, of which one has an owner who needs it."""
    useful: dict[str, list[float]] = {"no owner": [], "pauses": [], "a quarter": []}
    for seed in seeds:
        for how, values in useful.items():
            share = 0.25 if how == "a quarter" else 0.0
            world = world_of(spread(even, 4, seed), seed, node={"yield_to_owner": True, "yield_share": share})
            counted = Counted(world)
            world.begin()
            world.client.submit()
            world.advance(SETTLE)
            world.fleet.machines["n001"].owner_percent = 0.0 if how == "no owner" else 90.0
            world.advance(60.0)
            counted.reset()
            world.advance(seconds)
            values.append(counted.useful["job1"])
    without = statistics.fmean(useful["no owner"])
    return [Slowed(how=how, useful=statistics.fmean(values) / without) for how, values in useful.items()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--fleets", nargs="+", choices=FLEETS, default=list(FLEETS))
    parser.add_argument("--minutes", type=float, default=15.0, help="virtual minutes measured")
    parser.add_argument("--nodes", type=int, default=9)
    options = parser.parse_args()
    seconds = 60 * options.minutes
    rows = [row for fleet in options.fleets for row in rows_of(fleet, options.seeds, options.nodes, seconds)]
    owners = slowed(options.seeds, seconds)
    if options.json:
        print(msgspec.json.encode({"sharing": rows, "slowed": owners}).decode())
        return
    print(f"simulated, {options.nodes} nodes\n{'':28}{'how':>14}{'worst':>8}{'Jain':>8}{'total':>8}{'moved/h':>9}")
    for row in rows:
        what = f"{row.fleet:10}{row.jobs:18}{row.how:>14}"
        print(f"{what}{row.worst:8.2f}{row.jain:8.3f}{row.total:8.2f}{row.moved:9.1f}")
    print("\none of four nodes slowed, useful samples/s: " + ", ".join(f"{each.how} {each.useful:.2f}" for each in owners))


if __name__ == "__main__":
    main()

"""What a machine that stands still costs the others: the longest round, in virtual time with real cores.

    python -m benchmarks.stalls [--json] [--seconds 4]

Four equal machines on good links train in rounds of 20 steps, then with exact steps (`sync = "step"`). After 40 rounds one
that doesn't reduce stands still, alive and silent, for so many seconds: too short for anybody to take it for dead. The
deadline is what ends the wait.
"""

import argparse
import json
import random
from dataclasses import asdict, dataclass

from bus.simulated_faults import NONE, Faults
from bus.simulated_streams import Stored
from runners.simulation import World
from runners.simulation.clocks import SkewedClock
from runners.simulation.machines import LINKS, Machine
from schemas.jobs import JobRequest, SyncMode
from schemas.training import Assignment, RoundClosed

NAMES = ("n0", "n1", "n2", "n3")
SETTLED = 40  # rounds


@dataclass(frozen=True)
class Row:
    """Seconds, virtual."""

    sync: SyncMode
    median_round: float
    deadline: float
    longest_round: float
    rounds: int
    """Closed from the stall's beginning until two seconds after its end."""


def build(name: str, rng: random.Random, _: Faults) -> Machine:
    """An office machine: 16 ms a step of 8 samples."""
    return Machine(name, random.Random(rng.random()), SkewedClock(0.0, 0.0), *LINKS[1], 0.002)


def measure(sync: SyncMode, seconds: float) -> Row:
    """One fleet."""
    request = JobRequest(
        kind="train", workload="simulated:job", rounds=100_000, local_steps=20, min_nodes=len(NAMES), sync=sync
    )
    world = World(1, list(NAMES), 1.0, NONE, check=0, trace=False, request=request, machine=build)
    closed: list[RoundClosed] = []
    deadlines: list[float] = []

    def look(stored: Stored) -> None:
        if stored.wire.type is RoundClosed:
            closed.append(stored.wire.decode_bytes(stored.data))
        elif stored.wire.type is Assignment:
            deadlines.append(stored.wire.decode_bytes(stored.data).deadline_seconds)

    world.network.readers.observers.append(look)
    world.begin()
    world.until(lambda: len(closed) >= SETTLED, 900.0, step=0.2)
    before = sorted(each.seconds for each in closed[10:])
    victim = next(name for name in reversed(NAMES) if name != closed[-1].next_reducer)
    for endpoint in world.fleet.machines[victim].endpoints:
        endpoint.paused = world.network.now + seconds
    seen, deadline = len(closed), deadlines[-1]
    world.advance(seconds + 2.0)
    after = closed[seen:]
    return Row(sync, before[len(before) // 2], deadline, max(each.seconds for each in after), len(after))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0, help="of standing still")
    options = parser.parse_args()
    rows = [measure(sync, options.seconds) for sync in ("round", "step")]
    if options.json:
        print(json.dumps({"seconds": options.seconds, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    for row in rows:
        told = f"rounds of {row.median_round:.2f} s, deadline {row.deadline:.2f} s"
        print(f"sync {row.sync}: {told}; longest round {row.longest_round:.2f} s, {row.rounds} closed")


if __name__ == "__main__":
    main()

"""Whether appraisals and forecasts are right: of a job without a node, and of one that isn't there yet.

    python -m benchmarks.appraisal [--json] [--seeds 3] [--rounds 40] [--fleet NAME ...]

Simulated fleets with the real cores: one job with all nodes, and for each kind of node in it the same job, seed and
machines with that node excluded. Predicted is the last word of the appraiser on the whole job; measured is the useful
samples a second of the other run over the same rounds, over those of this one. What a run adapts to differs in the other,
so that measured includes all that the model leaves out.

`forecast`: what `shoal doctor --fleet` would have said of the fleet, its machines measured without an error, over what
it then made.
"""

import argparse
import random
import statistics
from collections.abc import Callable

import msgspec

from bus.simulated_faults import NONE, Faults
from bus.simulated_streams import Stored
from runners.fleet_forecast import Machine as Measured
from runners.fleet_forecast import forecast
from runners.simulation import World
from runners.simulation.clocks import SkewedClock
from runners.simulation.machines import FASTEST, PARAMETERS, Machine
from schemas.appraisal import NodesAppraised
from schemas.jobs import JobRequest
from schemas.measuring import Carried, NodeMeasured
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeProfile
from schemas.training import RoundClosed, RoundOpened
from schemas.wire import Message

RACK, GOOD, FAIR, POOR, BAD = (0.001, 100e6), (0.02, 20e6), (0.08, 5e6), (0.2, 1e6), (0.3, 0.4e6)
"""Round trip in seconds, bytes a second."""
FORECAST = "forecast"
MICROBATCH = 8
BYTES = 4_000_000  # of a transfer that measures a link
PATIENCE = 36_000.0  # virtual seconds for a job

# By kind: (how many, link, seconds a sample, how often a round takes six times as long).
Kind = tuple[int, tuple[float, float], float, float]
FLEETS: dict[str, dict[str, Kind]] = {
    "even": {"any": (5, GOOD, 0.005, 0.0)},
    "one slow": {"fast": (4, GOOD, 0.004, 0.0), "slow": (1, GOOD, 0.012, 0.0)},
    "one fast": {"fast": (1, GOOD, 0.002, 0.0), "slow": (4, GOOD, 0.006, 0.0)},
    "one bad link": {"good": (4, GOOD, 0.004, 0.0), "bad": (1, BAD, 0.004, 0.0)},
    "one moody": {"steady": (4, GOOD, 0.004, 0.0), "moody": (1, GOOD, 0.004, 0.3)},
    "two links": {"rack": (3, RACK, 0.003, 0.0), "home": (5, FAIR, 0.005, 0.0)},
    "mixed": {
        "rack": (1, RACK, 0.002, 0.0),
        "good": (1, GOOD, 0.004, 0.0),
        "fair": (1, FAIR, 0.004, 0.0),
        "poor": (1, POOR, 0.006, 0.0),
        "bad": (1, BAD, 0.01, 0.0),
    },
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a fleet."""

    fleet: str
    node: str
    seed: int
    measured: float
    """Change of the job's useful samples a second without it."""
    predicted: float
    low: float
    high: float
    verdict: str

    @property
    def off(self) -> float:
        """By how much the prediction is off, as a part of the job's speed."""
        return abs(self.predicted - self.measured)

    @property
    def wrong(self) -> bool:
        """A node that is said to help and hinders, or the other way round, by more than a percent."""
        return (self.verdict == "helps" and self.measured > 0.01) or (self.verdict == "hinders" and self.measured < -0.01)


class Moody(Machine):
    """A machine that now and then does something else."""

    moods: float = 0.0

    def compute_seconds(self, steps: int, microbatch: int) -> float:
        """Six times as long in some rounds."""
        usual = super().compute_seconds(steps, microbatch)
        return usual * 6.0 if self.moods and self.rng.random() < self.moods else usual


def machines(kinds: dict[str, Kind], seed: int) -> tuple[list[str], Callable[..., Machine]]:
    """Names, and what makes each machine."""
    made = {f"{kind}-{number}": spec for kind, spec in kinds.items() for number in range(spec[0])}

    def machine(name: str, rng: random.Random, faults: Faults) -> Machine:
        _, (round_trip, rate), seconds, moods = made[name]
        jitter = round_trip / 10
        machine = Moody(name, random.Random(f"{seed}/{name}"), SkewedClock(), round_trip, jitter, rate, seconds)
        machine.moods = moods
        return machine

    return list(made), machine


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was run."""

    speed: float
    """Useful samples a second from the second round's opening to the last one's."""
    said: NodesAppraised
    """The appraiser's last word."""
    fleet: dict[str, Measured]
    """The machines as their own measurement would have shown them."""


def run(fleet: str, seed: int, rounds: int, without: str = "") -> Run:
    """One job of a fleet."""
    names, machine = machines(FLEETS[fleet], seed)
    request = asked(rounds, len(names), without)
    world = World(seed, names, 1.0, NONE, machine=machine, request=request, beat=5.0, check=0, trace=False)
    heard: list[tuple[float, Message]] = []
    types = (RoundOpened, RoundClosed, NodesAppraised, NodeProfile, LinkQualityChanged)

    def look(stored: Stored) -> None:
        if stored.wire.type in types:
            heard.append((world.network.now, stored.wire.decode_bytes(stored.data)))

    world.network.readers.observers.append(look)
    world.begin()

    def last() -> NodesAppraised | None:
        said = (message for _, message in heard if isinstance(message, NodesAppraised) and message.round == rounds)
        return next(said, None)

    assert world.until(lambda: last() is not None, PATIENCE, 20.0), f"{fleet}: the job doesn't end"
    said = last()
    assert said is not None
    links = {m.node: m for _, m in heard if isinstance(m, LinkQualityChanged)}
    measured = {
        m.node: measure(world.fleet.machines[m.node], m, links.get(m.node))
        for _, m in heard
        if isinstance(m, NodeProfile) and m.node != without
    }
    return Run(speed=speed(heard, rounds), said=said, fleet=measured)


def asked(rounds: int, nodes: int, without: str = "") -> JobRequest:
    """The job."""
    return JobRequest(
        kind="train",
        workload="simulated:job",
        rounds=rounds,
        local_steps=200,
        min_nodes=nodes - bool(without),
        hang_seconds=300.0,
        exclude=(without,) if without else (),
    )


def measure(machine: Machine, profile: NodeProfile, link: LinkQualityChanged | None) -> Measured:
    """What a machine would find out about itself."""
    rng = random.Random(machine.name)
    carried = (Carried(bytes=BYTES, seconds=machine.round_trip + BYTES / machine.rate),)
    found = NodeMeasured(
        node=machine.name,
        ticket="simulated",
        parameters=PARAMETERS,
        microbatch=MICROBATCH,
        step_seconds=tuple((2 * FASTEST + machine.sample_seconds * MICROBATCH) * rng.uniform(0.9, 1.1) for _ in range(30)),
        up=carried,
        down=carried,
    )
    return Measured(measured=found, profile=profile, link=link)


def speed(heard: list[tuple[float, Message]], rounds: int) -> float:
    """Useful samples a second of the first job."""
    job = next(m.job for _, m in heard if isinstance(m, RoundOpened))
    opened: dict[int, float] = {}
    for at, message in heard:
        if isinstance(message, RoundOpened) and message.job == job:
            opened.setdefault(message.round, at)
    closed = [m for _, m in heard if isinstance(m, RoundClosed) and m.job == job and 2 <= m.round < rounds]
    useful = sum(part.samples / (1 + part.late) for one in closed for part in one.contributions)
    return useful / (opened[rounds] - opened[2])


def compare(fleet: str, seed: int, rounds: int) -> list[Row]:
    """A row for each kind of node, and one for the forecast."""
    base = run(fleet, seed, rounds)
    rows = []
    for kind in FLEETS[fleet]:
        node = f"{kind}-0"
        value = next(one for one in base.said.nodes if one.node == node)
        other = run(fleet, seed, rounds, node)
        rows.append(
            Row(
                fleet=fleet,
                node=kind,
                seed=seed,
                measured=other.speed / base.speed - 1,
                predicted=value.without,
                low=value.without_low,
                high=value.without_high,
                verdict=value.verdict,
            )
        )
    made = forecast(base.fleet, asked(rounds, len(base.fleet)), random.Random(seed)).fleet
    low, value, high = (figure / base.speed - 1 for figure in (made.low, made.value, made.high))
    rows.append(Row(fleet=fleet, node=FORECAST, seed=seed, measured=0.0, predicted=value, low=low, high=high, verdict=""))
    return rows


def told(rows: list[Row]) -> str:
    """How far off, in one line."""
    off = sorted(row.off for row in rows)
    inside = sum(row.low <= row.measured <= row.high for row in rows)
    wrong = sum(row.wrong for row in rows)
    return (
        f"off by {statistics.median(off):.1%} in the median, {off[round(0.9 * (len(off) - 1))]:.1%} in nine of ten, "
        f"{off[-1]:.1%} at worst; within the interval: {inside} of {len(rows)}; wrong verdicts: {wrong}"
    )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--fleet", nargs="+", choices=FLEETS, default=list(FLEETS))
    options = parser.parse_args()
    rows = [
        row for name in options.fleet for seed in range(1, options.seeds + 1) for row in compare(name, seed, options.rounds)
    ]
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return
    print(f"{'simulated fleet':16} {'node':8} {'seed':>4} {'measured':>9} {'predicted':>10} {'90 % interval':>18} verdict")
    for row in rows:
        interval = f"{row.low:+.1%} to {row.high:+.1%}"
        print(
            f"{row.fleet:16} {row.node:8} {row.seed:4d} {row.measured:+9.1%} {row.predicted:+10.1%} {interval:>18} "
            f"{row.verdict}{'  WRONG' if row.wrong else ''}"
        )
    print("appraisals:", told([row for row in rows if row.node != FORECAST]))
    print("forecasts: ", told([row for row in rows if row.node == FORECAST]))


if __name__ == "__main__":
    main()

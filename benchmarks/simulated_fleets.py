"""Simulated fleets for benchmarks of decisions: the real cores, machines and links that a benchmark chooses."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bus.simulated_faults import NONE, Faults
from bus.simulated_streams import Stored
from runners.simulation import World
from runners.simulation.clocks import SkewedClock
from runners.simulation.machines import Machine
from runners.simulation.world import REQUEST
from schemas.training import RoundClosed

Link = tuple[float, float, float]
"""Round trip and jitter in seconds, bytes a second."""

GOOD: Link = (0.02, 0.005, 20e6)
FAIR: Link = (0.08, 0.02, 5e6)
POOR: Link = (0.2, 0.05, 1e6)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of a fleet."""

    sample_seconds: float = 0.002
    links: tuple[Link, ...] = (GOOD,)
    """In turn, if there are several."""
    every: float = 20.0
    """Seconds that one link lasts; the mean of exponential ones where `random` is set."""
    phase: float = 0.0
    """Seconds by which its changes come later than at full multiples of `every`."""
    random: bool = False
    crashes: float = 0.0
    """Mean seconds until its job process dies; 0 for never."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet's job came to."""

    useful: float
    """Samples a second that counted: late ones less, as the average counts them."""
    round_seconds: float
    missed: float
    """Contributions missed, a round."""
    evenness: float
    """Jain's index over all nodes' contributions, 1 / nodes to 1 (all alike)."""


def run(
    nodes: Sequence[Node],
    seed: int,
    *,
    settle: float,
    seconds: float,
    beat: float = 1.0,
    kinds: Sequence[type] = (),
    **request: Any,
) -> tuple[Ran, dict[type, list[Any]]]:
    """A job on a fleet: `settle` virtual seconds unmeasured, then `seconds`; and all stored messages of some types."""
    names = [f"n{place:03d}" for place in range(len(nodes))]
    made = dict(zip(names, nodes, strict=True))

    def machine(name: str, rng: random.Random, faults: Faults) -> Machine:
        node = made[name]
        return Machine(name, random.Random(f"{seed}/{name}"), SkewedClock(), *node.links[0], node.sample_seconds)

    asked = {"rounds": 1_000_000, "validate_every": 0, "checkpoint_every": 0, "max_nodes": None} | request
    job = msgspec.structs.replace(REQUEST, **asked)
    world = World(seed, names, 1.0, NONE, check=0, trace=False, machine=machine, request=job, beat=beat)
    heard: dict[type, list[Any]] = {kind: [] for kind in (RoundClosed, *kinds)}

    def look(stored: Stored) -> None:
        if stored.wire.type in heard:
            heard[stored.wire.type].append(stored.wire.decode_bytes(stored.data))

    world.network.readers.observers.append(look)
    for name, node in made.items():
        _trouble(world, name, node, random.Random(f"{seed}/trouble/{name}"))
    world.begin()
    world.advance(settle)
    before = len(heard[RoundClosed])
    world.advance(seconds)
    return _ran(heard[RoundClosed][before:], names, seconds), heard


def _trouble(world: World, name: str, node: Node, rng: random.Random) -> None:
    """A link that changes, a process that dies."""
    machine = world.fleet.machines[name]

    def change(place: int) -> None:
        machine.relink(*node.links[place % len(node.links)])
        wait = rng.expovariate(1 / node.every) if node.random else node.every
        world.network.at(world.network.now + wait, change, place + 1)

    def crash(_: object) -> None:
        for process in list(machine.jobs.values()):
            process.kill(1)
        world.network.at(world.network.now + rng.expovariate(1 / node.crashes), crash)

    if len(node.links) > 1:
        world.network.at(30.0 + node.phase, change, 1)
    if node.crashes:
        world.network.at(60.0 + rng.expovariate(1 / node.crashes), crash)


def _ran(closed: list[RoundClosed], names: list[str], seconds: float) -> Ran:
    parts = [part for each in closed for part in each.contributions]
    counts = [sum(part.node == name for part in parts) for name in names]
    squares = len(names) * sum(count**2 for count in counts)
    return Ran(
        useful=sum(part.samples / (1 + part.late) for part in parts) / seconds,
        round_seconds=seconds / max(1, len(closed)),
        missed=sum(len(each.missing) for each in closed) / max(1, len(closed)),
        evenness=sum(counts) ** 2 / squares if squares else 0.0,
    )


def spread(make: Callable[[int, random.Random], Node], count: int, seed: int) -> list[Node]:
    """So many nodes, each made from its place and a source of chance; fleets of one seed are alike whatever is compared."""
    return [make(place, random.Random(f"fleet/{seed}/{place}")) for place in range(count)]


def table(rows: Mapping[str, Mapping[str, float]], best: bool = True) -> str:
    """Rows and columns by name, aligned; the best of a row marked."""
    columns = list(next(iter(rows.values())))
    lines = [f"{'':14}" + "".join(f"{column:>14}" for column in columns)]
    for name, values in rows.items():
        top = max(values.values())
        cells = (f"{value:.1f}{'*' if best and value == top else ' '}" for value in values.values())
        lines.append(f"{name:14}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)

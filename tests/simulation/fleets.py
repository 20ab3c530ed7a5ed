"""Fleets for the simulation tests: small, with machines as a test wants them."""

import random
from collections.abc import Callable
from typing import Any

import msgspec

from bus.simulated_faults import NONE, Faults
from bus.simulated_streams import Stored
from runners.simulation import World
from runners.simulation.clocks import SkewedClock
from runners.simulation.machines import Machine
from runners.simulation.world import REQUEST
from schemas.jobs import JobRequest

# Long rounds of few nodes: what an hour of a fleet costs is mostly the messages of rounds.
QUIET = msgspec.structs.replace(REQUEST, rounds=12, local_steps=800, max_nodes=12)


def even_machine(name: str, seconds: float) -> Machine:
    """A machine with a good link, whose speed a test chooses (seconds for a sample)."""
    return Machine(name, random.Random(name[-3:]), SkewedClock(), 0.02, 0.0, 20e6, seconds)


def small_world(
    names: list[str],
    speeds: list[float],
    *,
    seed: int = 1,
    faults: Faults = NONE,
    request: JobRequest = REQUEST,
    **options: Any,
) -> World:
    """A world with a machine of each speed."""
    seconds = dict(zip(names, speeds, strict=True))

    def machine(name: str, rng: random.Random, given: Faults) -> Machine:
        return even_machine(name, seconds[name])

    return World(seed, names, 1.0, faults, machine=machine, request=request, beat=5.0, **options)


def listen(world: World, *kinds: type) -> list[Any]:
    """A list that gets every stored message of these types, as it is stored."""
    heard: list[Any] = []
    look: Callable[[Stored], None] = lambda stored: (  # noqa: E731
        heard.append(stored.wire.decode_bytes(stored.data)) if stored.wire.type in kinds else None
    )
    world.network.readers.observers.append(look)
    return heard

"""A whole simulation: a fleet, faults, a client with jobs; safety while faults last, liveness once they are over."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from bus.simulated_faults import DEFAULT, Faults
from bus.simulated_network import SimulatedNetwork
from runners.simulation.chaos import Chaos
from runners.simulation.client import Client
from runners.simulation.fleet import Fleet
from runners.simulation.job_process import JobProcess
from runners.simulation.liveness import Liveness
from runners.simulation.machines import Machine, build_machine
from runners.simulation.safety import Safety
from runners.simulation.schedule import FaultEvent, drawn
from runners.simulation.steadiness import Steadiness
from schemas.jobs import JobPhase, JobRequest

# Virtual seconds between looks at the sizes of states, and at the process's own events.
LOOK_EVERY = 300.0
REQUEST = JobRequest(
    kind="train",
    workload="simulated:job",
    rounds=20,
    local_steps=200,
    min_nodes=2,
    max_nodes=16,  # what a job's events cost grows with the square of its nodes: each hears of all
    hang_seconds=300.0,
)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation came to."""

    seed: int
    nodes: int
    hours: float
    """Virtual hours with faults."""
    events: int
    """Things that happened: deliveries, timers, ends of works, acknowledgements of publishes."""
    inputs: int
    """What cores handled."""
    published: int
    delivered: int
    dropped: int
    rounds: int
    jobs: dict[str, int]
    """By how they ended; `open` have not."""
    faults: dict[str, int]
    """By kind."""
    digest: str
    """SHA-256 over everything that was published: two runs of one seed have the same. Empty if not asked for."""
    wall_seconds: float


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for cycles of garbage meanwhile: events leave next to none, and searching took a twentieth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class World:
    """One simulation. The same arguments give the same run, byte for byte.

    Args:
        seed: of all chance.
        nodes: how many, or their names.
        hours: virtual, with faults on.
        faults: see `bus.simulated_faults`.
        check: 1: look at a core's invariants after each of its inputs, at all of them after every 64th, at what the input
            may have touched after the others; n > 1: after each that led to more than a timer, and after every n-th of the
            others (heartbeats and probes, most of all inputs); 0: never. What the streams store is watched in any case.
        beat: seconds between a node's heartbeats.
        probe: seconds between a node's probes; `beat`, if not given.
        schedule: what goes wrong and when; drawn from the seed by the rates of `faults`, if not given.
        muted: agents that are not there at all.
        settings: of agents, by name; `node` for those of nodes.
        request: the job that the client submits, again whenever it has ended.
        jobs: how many such jobs there are at once.
        machine: makes a node's machine.
        process: makes the process of a job on it.
    """

    def __init__(
        self,
        seed: int,
        nodes: int | list[str] = 50,
        hours: float = 1.0,
        faults: Faults = DEFAULT,
        *,
        check: int = 1,
        trace: bool = True,
        beat: float = 1.0,
        probe: float | None = None,
        schedule: Sequence[FaultEvent] | None = None,
        muted: frozenset[str] = frozenset(),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        request: JobRequest = REQUEST,
        jobs: int = 1,
        machine: Callable[..., Machine] = build_machine,
        process: Callable[..., JobProcess] = JobProcess,
    ) -> None:
        names = [f"n{number:05d}" for number in range(nodes)] if isinstance(nodes, int) else nodes
        self.seed = seed
        self.hours = hours
        self.faults = faults
        self.request = request
        self.network = SimulatedNetwork(seed, faults, trace=trace)
        self.fleet = Fleet(
            self.network,
            seed=seed,
            names=names,
            faults=faults,
            beat=beat,
            probe=beat if probe is None else probe,
            check=check,
            muted=muted,
            settings=settings,
            machine=machine,
            process=process,
        )
        self.client = Client(self.fleet, request, jobs)
        if schedule is None:
            schedule = drawn(faults, seed, self.fleet.agents, names, hours * 3600.0)
        self.chaos = Chaos(self.fleet, faults, schedule)
        self.safety = Safety(self.fleet)
        self.steadiness = Steadiness()
        self._check = check
        self._wall = 0.0
        self._look_at = LOOK_EVERY
        self.network.readers.observers += [self.safety.stored, self.steadiness.stored]

    def run(self) -> Outcome:
        """Faults for the hours that were asked for, then the liveness phase.

        Raises:
            CoreRaised, Unsafe, DigestsDiffer, NotLive: what a simulation is there to find.
        """
        self.begin()
        self.advance(self.hours * 3600.0)
        self.calm()
        Liveness(self).check()
        return self.outcome()

    def begin(self) -> None:
        """Start everybody; faults begin at once."""
        self.fleet.begin()
        self.client.begin()
        self.chaos.begin()

    def calm(self) -> None:
        """Faults are over."""
        self.chaos.end()

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        begun, until = time.perf_counter(), self.network.now + seconds
        while self.network.now < until:
            with uncollected():
                self.network.run(min(until, self._look_at))
            if self.network.now >= self._look_at:
                self._look_at = self.network.now + LOOK_EVERY
                if self._check:
                    self.safety.bounded()
        self._wall += time.perf_counter() - begun

    def until(self, condition: Callable[[], bool], seconds: float, step: float = 1.0) -> bool:
        """Let time pass until a condition holds; False where it doesn't within `seconds`."""
        end = self.network.now + seconds
        while not condition():
            if self.network.now >= end:
                return False
            self.advance(step)
        return True

    def outcome(self) -> Outcome:
        """What it has come to so far."""
        network, client = self.network, self.client
        jobs = {phase.value: count for phase in JobPhase if phase.ended and (count := client.ended(phase))}
        return Outcome(
            seed=self.seed,
            nodes=len(self.fleet.machines),
            hours=self.hours,
            events=network.events,
            inputs=self.fleet.inputs,
            published=network.published,
            delivered=network.delivered,
            dropped=network.dropped,
            rounds=self.safety.rounds,
            jobs=jobs | ({"open": len(client.open)} if client.open else {}),
            faults=dict(sorted(self.chaos.counts.items())),
            digest=network.trace.hexdigest() if network.trace is not None else "",
            wall_seconds=self._wall,
        )

"""A simulation as a file: all that is needed to run it again, and what it came to."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bus.simulated_faults import faults_named
from runners.simulation.cores import AGENTS
from runners.simulation.liveness import Liveness
from runners.simulation.schedule import FaultEvent, drawn
from runners.simulation.world import REQUEST, Outcome, World, uncollected
from schemas.errors import FAULTS, ShoalError

# Rounds of a minute or two among six nodes, as a fleet that speaks every ten seconds would have: what an hour costs is its
# messages, and those of a round grow with the square of its nodes.
LONG_ROUNDS: dict[str, Any] = {"rounds": 5, "local_steps": 2000, "max_nodes": 6}
BEAT, PROBE = 10.0, 60.0
# Heartbeats between a node's looks at its machine.
LOOKS = 30
# Seconds between the failure detector's looks at itself, half a heartbeat, and for which the selector counts on it.
PULSE, PULSE_COUNTS = 5.0, 15.0
_NUMBERS = re.compile(r"[0-9a-f]{8,}|\d+(\.\d+)?")


class BadCase(ShoalError):
    """A file is no case of a simulation. Attribute: `path`."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is no case of a simulation: {why}")
        self.path = path


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One simulation: with the same code it runs the same, byte for byte."""

    seed: int
    nodes: tuple[str, ...]
    hours: float
    """Virtual hours with faults."""
    faults: str = "all"
    """What happens to messages in bad weather; a preset's name."""
    schedule: tuple[FaultEvent, ...] = ()
    beat: float = BEAT
    """Seconds between a node's heartbeats."""
    probe: float = PROBE
    """Seconds between a node's probes."""
    check: int = 1
    """See `World`."""
    jobs: int = 1
    request: dict[str, Any] = msgspec.field(default_factory=LONG_ROUNDS.copy)
    """Where its jobs differ from the simulation's usual ones."""
    calm: bool = True
    """Whether a calm time follows, in which all must come right."""
    found: str = ""
    """What it showed when it was kept."""
    plant: str = ""
    """The bug that a test plants before it runs it; empty: none."""

    def world(self) -> World:
        """The simulation, before its first event."""
        request = msgspec.convert(msgspec.structs.asdict(REQUEST) | self.request, type(REQUEST))
        if len(self.nodes) < request.min_nodes:  # a story with fewer nodes has a job that they can do
            request = msgspec.structs.replace(request, min_nodes=max(1, len(self.nodes)))
        return World(
            self.seed,
            list(self.nodes),
            self.hours,
            faults_named(self.faults),
            check=self.check,
            beat=self.beat,
            probe=self.probe,
            schedule=self.schedule,
            settings={
                "network_monitor": {"offline_after": 1.5 * self.probe},
                "failure_detector": {"pulse_seconds": PULSE},
                "node_selector": {"detector_seconds": PULSE_COUNTS},
                "node": {"sample_every": LOOKS},
            },
            request=request,
            jobs=self.jobs,
        )


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation found that must not be."""

    kind: str
    """The error's type."""
    what: str
    at: float
    """Virtual seconds."""
    event: str = ""
    """The id of the message that shows it, or led to it; empty where there is none."""

    @property
    def signature(self) -> str:
        """The same for two schedules that show the same: its words, whatever the numbers in them."""
        return f"{self.kind}: {_NUMBERS.sub('#', self.what)}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one simulation came to."""

    seed: int
    outcome: Outcome
    cpu_seconds: float
    finding: Finding | None = None


def case_of(seed: int, nodes: int, hours: float, faults: str, **options: Any) -> Case:
    """The simulation of a seed. Raises `UnknownFaults`."""
    names = tuple(f"n{number:05d}" for number in range(nodes))
    schedule = tuple(drawn(faults_named(faults), seed, AGENTS, names, hours * 3600.0))
    return Case(seed=seed, nodes=names, hours=hours, faults=faults, schedule=schedule, **options)


def run(
    case: Case,
    watch: Callable[[World], None] = lambda world: None,
    weighing: Callable[[World], None] = lambda world: None,
) -> Result:
    """Simulate; whatever is raised on the way is the finding.

    `watch` gets the world before its first event, `weighing` after the last, while all that it holds is there still.
    """
    begun = time.process_time()
    world = case.world()
    watch(world)
    finding = None
    try:
        with uncollected():
            world.begin()
            world.advance(case.hours * 3600.0)
            if case.calm:
                world.calm()
                Liveness(world).check()
    except Exception as error:  # a search must name the seed, whatever went wrong
        finding = Finding(
            kind=type(error).__name__, what=str(error), at=world.network.now, event=getattr(error, "event", "")
        )
    weighing(world)
    return Result(seed=case.seed, outcome=world.outcome(), cpu_seconds=time.process_time() - begun, finding=finding)


def seeds_of(text: str) -> Iterator[int]:
    """`A-B`: the seeds from A to B. Raises `ValueError`."""
    first, _, last = text.partition("-")
    if int(last or first) < int(first):
        raise ValueError(f"{text!r} has no seeds: write the lower one first")
    yield from range(int(first), int(last or first) + 1)


def load(path: Path) -> Case:
    """Read a case. Raises `BadCase`, and `OSError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Case)
    except FAULTS as error:
        raise BadCase(path, str(error)) from error


def save(case: Case, path: Path) -> None:
    """Write a case, for people to read, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(case), indent=1) + b"\n")

"""Simulated machines: how fast one computes, what its line carries, and what its job processes hold."""

import hashlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bus.simulated_endpoint import Endpoint
from bus.simulated_faults import Faults
from runners.simulation.clocks import SkewedClock

if TYPE_CHECKING:
    from runners.simulation.job_process import JobProcess

# Parameters of the simulated model, as the example's byte-level GPT.
PARAMETERS = 1_000_000
BYTES_PER_PARAMETER = {"float32": 4.0, "float16": 2.0, "int8": 1.016, "int4": 0.531, "topk": 0.063}
# (round trip s, jitter s, bytes a second both ways) of links from a rack's to a bad phone's, as the emulator's profiles.
LINKS = (
    (0.001, 0.0005, 100e6),
    (0.020, 0.005, 20e6),
    (0.080, 0.020, 5e6),
    (0.200, 0.050, 1e6),
    (0.300, 0.150, 0.4e6),
)
# Seconds to compute one sample on the fastest and the slowest machine.
FASTEST, SLOWEST = 0.002, 0.02
# Seconds to start a job's process: an import of torch.
LOADING = (2.0, 8.0)


@dataclass
class Machine:
    """One machine of the fleet."""

    name: str
    rng: random.Random
    clock: SkewedClock
    round_trip: float
    """Seconds."""
    jitter: float
    rate: float
    """Bytes a second."""
    sample_seconds: float
    trusting: bool = True
    """Whether it runs code that jobs bring."""
    endpoints: list[Endpoint] = field(default_factory=list)
    """Of all its processes: one fault takes them all."""
    jobs: dict[str, "JobProcess"] = field(default_factory=dict)
    share: float = 1.0
    """Part of the time that job processes may compute in."""
    owner_percent: float = 0.0
    """Of its CPU, by its owner's programs."""

    def compute_seconds(self, steps: int, microbatch: int) -> float:
        """Local steps: a fixed cost each, and one for every sample; a tenth up or down from round to round. Jobs share the
        one core."""
        nominal = steps * (2 * FASTEST + self.sample_seconds * microbatch)
        return nominal * self.rng.uniform(0.9, 1.1) * max(1, len(self.jobs)) / self.share

    def transfer_seconds(self, size: int, other: "Machine") -> float:
        """A tensor from another machine to this one, through both lines."""
        return (self.round_trip + other.round_trip) * 2 + size / min(self.rate, other.rate)

    def relink(self, round_trip: float, jitter: float, rate: float) -> None:
        """Give it another line: seconds, seconds, bytes a second. What is under way arrives as it would have."""
        self.round_trip, self.jitter, self.rate = round_trip, jitter, rate
        for each in self.endpoints:
            each.latency, each.jitter = round_trip / 2, jitter

    def endpoint(self, source: str) -> Endpoint:
        """The connection of one more process on this machine."""
        made = Endpoint(source, self.round_trip / 2, self.jitter)
        if self.endpoints:
            made.up_cut, made.down_cut = self.endpoints[0].up_cut, self.endpoints[0].down_cut
            made.paused = self.endpoints[0].paused
        self.endpoints.append(made)
        return made


def build_machine(name: str, rng: random.Random, faults: Faults) -> Machine:
    """A machine with a link and a speed drawn from what fleets are made of; a schedule of faults may slow it down."""
    round_trip, jitter, rate = rng.choice(LINKS)
    seconds = FASTEST * (SLOWEST / FASTEST) ** rng.random()
    return Machine(name, random.Random(rng.random()), SkewedClock(), round_trip, jitter, rate, seconds)


def tensor_bytes(encoding: str) -> int:
    """Size of a difference or an average."""
    return int(PARAMETERS * BYTES_PER_PARAMETER[encoding])


def digest_of(*parts: object) -> str:
    """Stands for the hash of a tensor that is a function of these."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

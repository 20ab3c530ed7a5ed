"""What goes wrong in a simulation, as an explicit list: drawn from a seed, or given, for a search to make it shorter.

Everybody has a generator of their own for each kind of fault, so that what happens to one says nothing of the others.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from bus.simulated_faults import Faults

_HOUR = 3600.0
# Seconds of bad weather in one entry of a schedule: a search can leave them out one by one, and cut what is left in two.
WEATHER = 300.0
# Seconds by which a state that is too old is too old at most: a journal is synced about so often.
OLDER = 60.0

Kind = Literal["crash", "pause", "cut", "kill", "stall", "weather", "skew", "slow"]
Keep = Literal["all", "stale", "nothing"]
Way = Literal["both", "up", "down"]
_Struck = tuple[Kind, float, Callable[[Faults, random.Random, float, str], "FaultEvent"]]
"""A kind of fault, how often an hour, and what makes one at a time for somebody."""


class FaultEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One thing that goes wrong.

    `crash`: an agent, or a machine with all that runs on it, is killed and starts again after `seconds`. `pause`: it stands
    still for so long. `cut`: nothing gets through to the server or back. `kill`, `stall`: one job process of a machine is
    killed, or stands still while its node goes on. `weather`: everybody's messages get lost, doubled and overtaken, by the
    fractions of the faults in force. `skew`: a clock is wrong from the start. `slow`: a machine computes slowly.
    """

    at: float
    """Virtual seconds."""
    kind: Kind
    who: str = ""
    """An agent or a node; empty for the weather."""
    seconds: float = 0.0
    keep: Keep = "all"
    """What a crashed agent finds of its state; its state `older` seconds before, where it is stale."""
    older: float = 0.0
    way: Way = "both"
    """Which way a cut link lets nothing through."""
    pick: float = 0.0
    """Which of a machine's job processes, as a fraction of their number."""
    amount: float = 0.0
    """Seconds that a clock is off; the factor by which a machine is slow."""
    drift: float = 0.0
    """Fraction by which a clock is fast."""

    @property
    def until(self) -> float:
        """When it is over."""
        return self.at + self.seconds

    def told(self) -> str:
        """It in words."""
        after = f"{self.seconds:.1f} s"
        match self.kind:
            case "crash":
                state = {"all": "", "stale": f", as it was {self.older:.0f} s before", "nothing": ", without its state"}
                return f"{self.who} is killed, and starts again after {after}{state[self.keep]}"
            case "pause":
                return f"{self.who} stands still for {after}"
            case "cut":
                ways = {"both": "is cut off", "up": "isn't heard any more", "down": "hears nothing any more"}
                return f"{self.who} {ways[self.way]}, for {after}"
            case "kill":
                return f"a job process on {self.who} is killed"
            case "stall":
                return f"a job process on {self.who} stands still for {after}"
            case "weather":
                return f"messages get lost, doubled and overtaken, for {after}"
            case "skew":
                return f"the clock of {self.who} is {self.amount:+.1f} s off, and {self.drift:+.2%} fast"
            case "slow":
                return f"{self.who} computes {self.amount:.1f} times as slowly"


def drawn(faults: Faults, seed: int, agents: Iterable[str], machines: Sequence[str], seconds: float) -> list[FaultEvent]:
    """The faults of so many virtual seconds, in the order of their times."""
    events = _weather(faults, seconds)
    agents = list(agents)
    mild = msgspec.structs.replace(faults, state_stale=0.0, state_lost=0.0)  # what a machine forgets, it always does
    everybody: tuple[_Struck, ...] = (
        ("crash", faults.crashes_per_hour, _crash),
        ("pause", faults.pauses_per_hour, _pause),
        ("cut", faults.partitions_per_hour, _cut),
    )
    processes: tuple[_Struck, ...] = (
        ("kill", faults.failing_works_per_hour, _kill),
        ("stall", faults.stalling_works_per_hour, _stall),
    )
    # A machine's chance goes by its place: other names for the same fleet change nothing.
    chances = {name: name for name in agents} | {name: f"n{place:05d}" for place, name in enumerate(machines)}
    for name, chance in chances.items():
        runs_jobs = name not in agents
        events += _standing(faults, random.Random(f"{seed}/standing/{chance}"), name, runs_jobs)
        for kind, per_hour, fault in everybody + (processes if runs_jobs else ()):
            rng = random.Random(f"{seed}/{kind}/{chance}")
            events += [fault(mild if runs_jobs else faults, rng, at, name) for at in _times(rng, per_hour, seconds)]
    return sorted(events, key=lambda event: event.at)


def _times(rng: random.Random, per_hour: float, seconds: float) -> Iterator[float]:
    """Exponential intervals."""
    at = rng.expovariate(per_hour / _HOUR) if per_hour > 0 else seconds
    while at < seconds:
        yield at
        at += rng.expovariate(per_hour / _HOUR)


def _weather(faults: Faults, seconds: float) -> list[FaultEvent]:
    if faults.quiet:
        return []
    count = int(-(-seconds // WEATHER))
    return [
        FaultEvent(at=number * WEATHER, kind="weather", seconds=min(WEATHER, seconds - number * WEATHER))
        for number in range(count)
    ]


def _standing(faults: Faults, rng: random.Random, name: str, machine: bool) -> list[FaultEvent]:
    """What is wrong from the start."""
    found = []
    if faults.skew_seconds or faults.drift:
        amount, drift = rng.uniform(-1, 1) * faults.skew_seconds, rng.uniform(-1, 1) * faults.drift
        found.append(FaultEvent(at=0.0, kind="skew", who=name, amount=amount, drift=drift))
    if machine and rng.random() < faults.slow_workers:
        found.append(FaultEvent(at=0.0, kind="slow", who=name, amount=rng.uniform(1.0, faults.slow_factor)))
    return found


def _crash(faults: Faults, rng: random.Random, at: float, who: str) -> FaultEvent:
    down, fate, older = rng.expovariate(1 / faults.restart_seconds), rng.random(), rng.uniform(0.0, OLDER)
    keep: Keep = "all"
    if fate < faults.state_lost:
        keep = "nothing"
    elif fate < faults.state_lost + faults.state_stale:
        keep = "stale"
    return FaultEvent(at=at, kind="crash", who=who, seconds=down, keep=keep, older=older if keep == "stale" else 0.0)


def _pause(faults: Faults, rng: random.Random, at: float, who: str) -> FaultEvent:
    return FaultEvent(at=at, kind="pause", who=who, seconds=rng.expovariate(1 / faults.pause_seconds))


def _cut(faults: Faults, rng: random.Random, at: float, who: str) -> FaultEvent:
    seconds, one_way, up = rng.expovariate(1 / faults.partition_seconds), rng.random(), rng.random()
    way: Way = "both" if one_way >= faults.one_way else "up" if up < 0.5 else "down"
    return FaultEvent(at=at, kind="cut", who=who, seconds=seconds, way=way)


def _kill(faults: Faults, rng: random.Random, at: float, who: str) -> FaultEvent:
    return FaultEvent(at=at, kind="kill", who=who, pick=rng.random())


def _stall(faults: Faults, rng: random.Random, at: float, who: str) -> FaultEvent:
    return FaultEvent(at=at, kind="stall", who=who, pick=rng.random(), seconds=rng.expovariate(1 / faults.pause_seconds))

"""What the links and machines are like, and what happens to them."""

import math
from dataclasses import dataclass
from typing import Literal

from benchmarks.training.tasks import WORKERS, Task

COORDINATOR = WORKERS
"""The node besides the workers: a perfect link, and there a peer's coordinator, or Shoal's server and agents."""

MIXED = ("perfect", "good", "average", "poor")
KILLED, KILLED_AT, KILLED_FOR = 2, 15.0, 15.0  # worker, seconds from the start of training
CHANGES_EVERY, LAST_CHANGE = 20.0, 600.0  # seconds


@dataclass(frozen=True)
class Event:
    """Something that is done to a worker, in seconds from the start of training."""

    at: float
    worker: int
    do: Literal["kill", "return", "link"]
    profile: str = ""


@dataclass(frozen=True)
class Scenario:
    """One way for the world to be."""

    name: str
    words: str
    links: tuple[str, ...] = ("perfect",) * WORKERS
    """A profile a worker."""
    slowdown: tuple[float, ...] = (1.0,) * WORKERS
    events: tuple[Event, ...] = ()

    def away(self, worker: int) -> tuple[float, float]:
        """From when to when a worker is dead; never, if it isn't killed."""
        times = {event.do: event.at for event in self.events if event.worker == worker}
        return times.get("kill", math.inf), times.get("return", math.inf)

    def steps_a_second(self, at: float, task: Task) -> float:
        """What all workers that are there take together, at a moment."""
        alive = [w for w in range(WORKERS) if not self.away(w)[0] <= at < self.away(w)[1]]
        return sum(1e3 / task.step_ms / self.slowdown[w] for w in alive)

    def ideal_seconds(self, steps: float, task: Task) -> float:
        """Seconds for so many steps of one worker each, if nothing was ever waited for."""
        moments = sorted({0.0, *(event.at for event in self.events if event.do != "link")})
        for start, end in zip(moments, [*moments[1:], math.inf], strict=True):
            rate = self.steps_a_second(start, task)
            if rate * (end - start) >= steps:
                return start + steps / rate
            steps -= rate * (end - start)
        raise AssertionError("the last stretch has no end")


def _rotating() -> tuple[Event, ...]:
    """Every so often each worker gets the link of the worker before it."""
    times = [CHANGES_EVERY * number for number in range(1, int(LAST_CHANGE / CHANGES_EVERY))]
    return tuple(
        Event(at, worker, "link", MIXED[(worker + number) % len(MIXED)])
        for number, at in enumerate(times, 1)
        for worker in range(WORKERS)
    )


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("perfect", "four equal workers, perfect links"),
        Scenario("mixed", "perfect, good, average and poor links", links=MIXED),
        Scenario("slow", "perfect links, one worker three times slower", slowdown=(1.0, 1.0, 1.0, 3.0)),
        Scenario(
            "kill",
            "perfect links; one worker's machine is dead from 15 s to 30 s",
            events=(Event(KILLED_AT, KILLED, "kill"), Event(KILLED_AT + KILLED_FOR, KILLED, "return")),
        ),
        Scenario("changing", "mixed links, handed on to the next worker every 20 s", links=MIXED, events=_rotating()),
        Scenario("average", "four average links", links=("average",) * WORKERS),
        Scenario("poor", "four poor links", links=("poor",) * WORKERS),
        Scenario("unstable", "mixed links, but the third is unstable", links=("perfect", "good", "unstable", "poor")),
    )
}

"""Carries out a set of faults: who crashes, stands still or is cut off, and when, drawn from one seed."""

import random
from collections.abc import Callable

from bus.simulated_endpoint import Endpoint
from bus.simulated_faults import Faults
from runners.simulation.fleet import Fleet
from runners.simulation.participant import Participant

_HOUR = 3600.0
# Seconds between the states that a later crash may throw an agent back to.
REMEMBER_EVERY = 60.0
_EXIT_KILLED = -9


class Chaos:
    """Faults of processes and links, from `begin` until `end`.

    Attributes:
        counts: how many of each kind there were.
    """

    def __init__(self, fleet: Fleet, faults: Faults, seed: int) -> None:
        self._fleet = fleet
        self._network = fleet.network
        self._faults = faults
        self._rng = random.Random(f"{seed}/chaos")
        self._active = False
        self.counts: dict[str, int] = {}

    def begin(self) -> None:
        """From now on things go wrong."""
        self._active = True
        faults = self._faults
        for name in [*self._fleet.agents, *self._fleet.machines]:
            self._every(faults.crashes_per_hour, lambda name=name: self._crash(name))  # type: ignore[misc]
            self._every(faults.pauses_per_hour, lambda name=name: self._pause(name))  # type: ignore[misc]
            self._every(faults.partitions_per_hour, lambda name=name: self._cut(name))  # type: ignore[misc]
        for name in self._fleet.machines:
            self._every(faults.failing_works_per_hour, lambda name=name: self._fail_work(name))  # type: ignore[misc]
        if faults.state_stale:
            self._network.at(self._network.now + REMEMBER_EVERY, self._remember)

    def end(self) -> None:
        """Faults are over: links heal, whoever stands still goes on, whoever is down comes back in its time."""
        self._active = False
        for endpoint in self._endpoints():
            endpoint.up_cut = endpoint.down_cut = min(endpoint.up_cut, self._network.now)
            endpoint.paused = min(endpoint.paused, self._network.now)

    def _endpoints(self) -> list[Endpoint]:
        hub = [each.endpoint for each in self._fleet.agents.values()]
        return hub + [endpoint for machine in self._fleet.machines.values() for endpoint in machine.endpoints]

    def _every(self, per_hour: float, fault: Callable[[], None]) -> None:
        """Let a fault happen again and again, at exponential intervals."""
        if per_hour <= 0:
            return

        def strike(_: object) -> None:
            if self._active:
                fault()
                again()

        def again() -> None:
            self._network.at(self._network.now + self._rng.expovariate(per_hour / _HOUR), strike)

        again()

    def _note(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def _crash(self, name: str) -> None:
        down = self._rng.expovariate(1 / self._faults.restart_seconds)
        agent = self._fleet.agents.get(name)
        if agent is None:
            if self._fleet.nodes[name].alive:
                self._note("machine crashes")
                self._fleet.kill_machine(name)
                self._network.at(self._network.now + down, _begin, self._fleet.nodes[name])
            return
        if not agent.alive:
            return
        fate, keep = self._rng.random(), "all"
        if fate < self._faults.state_lost:
            keep = "nothing"
        elif fate < self._faults.state_lost + self._faults.state_stale:
            keep = "stale"
        self._note("agent crashes" if keep == "all" else f"agent crashes, state {keep}")
        agent.kill(keep)
        self._network.at(self._network.now + down, _begin, agent)

    def _pause(self, name: str) -> None:
        self._note("pauses")
        until = self._network.now + self._rng.expovariate(1 / self._faults.pause_seconds)
        for endpoint in self._of(name):
            endpoint.paused = max(endpoint.paused, until)

    def _cut(self, name: str) -> None:
        self._note("partitions")
        until = self._network.now + self._rng.expovariate(1 / self._faults.partition_seconds)
        one_way = self._rng.random() < self._faults.one_way
        up = not one_way or self._rng.random() < 0.5
        for endpoint in self._of(name):
            if up:
                endpoint.up_cut = max(endpoint.up_cut, until)
            if not up or not one_way:
                endpoint.down_cut = max(endpoint.down_cut, until)

    def _fail_work(self, name: str) -> None:
        processes = list(self._fleet.machines[name].jobs.values())
        if processes:
            self._note("job processes killed")
            self._rng.choice(processes).kill(_EXIT_KILLED)

    def _of(self, name: str) -> list[Endpoint]:
        agent = self._fleet.agents.get(name)
        return self._fleet.machines[name].endpoints if agent is None else [agent.endpoint]

    def _remember(self, _: object) -> None:
        for agent in self._fleet.agents.values():
            if agent.alive:
                agent.remember()
        if self._active:
            self._network.at(self._network.now + REMEMBER_EVERY, self._remember)


def _begin(participant: Participant) -> None:
    if not participant.alive:
        participant.begin()

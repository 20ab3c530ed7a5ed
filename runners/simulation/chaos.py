"""Carries out a schedule of faults: who crashes, stands still or is cut off, and when."""

from collections.abc import Callable, Sequence

import msgspec

from bus.simulated_endpoint import Endpoint
from bus.simulated_faults import Faults
from runners.simulation.fleet import Fleet
from runners.simulation.job_process import JobProcess
from runners.simulation.participant import Participant
from runners.simulation.schedule import FaultEvent

_EXIT_KILLED = -9
_COUNTED = {
    "crash": "machine crashes",
    "pause": "pauses",
    "cut": "partitions",
    "kill": "job processes killed",
    "stall": "job processes stalled",
}


class Chaos:
    """Faults of processes, links and messages, from `begin` until `end`.

    Attributes:
        counts: how many of each kind there were; clocks, slow machines and the weather are not counted.
        done: what was carried out, in order: a crash of who was down already, for one, was not.
    """

    def __init__(self, fleet: Fleet, faults: Faults, schedule: Sequence[FaultEvent]) -> None:
        self._fleet = fleet
        self._network = fleet.network
        self._faults = faults
        self._calm = msgspec.structs.replace(faults, drop=0.0, duplicate=0.0, reorder=0.0)
        self._schedule = schedule
        self._active = False
        self._storms = 0
        self.counts: dict[str, int] = {}
        self.done: list[FaultEvent] = []
        self._strike: dict[str, Callable[[FaultEvent], bool]] = {
            "crash": self._crash,
            "pause": self._pause,
            "cut": self._cut,
            "kill": self._kill,
            "stall": self._stall,
            "weather": self._weather,
            "skew": lambda event: True,
            "slow": lambda event: True,
        }
        self._stand()

    def begin(self) -> None:
        """From now on things go wrong."""
        self._active = True
        begun = self._network.now
        self._network.set_faults(self._calm)
        for event in self._schedule:
            if event.keep == "stale":
                self._network.at(max(begun, begun + event.at - event.older), self._remember, event.who)
            self._network.at(begun + event.at, self._due, event)

    def end(self) -> None:
        """Faults are over: links heal, whoever stands still goes on, whoever is down comes back in its time."""
        self._active = False
        self._network.set_faults(self._calm)
        for endpoint in self._endpoints():
            endpoint.up_cut = min(endpoint.up_cut, self._network.now)
            endpoint.down_cut = min(endpoint.down_cut, self._network.now)
            endpoint.paused = min(endpoint.paused, self._network.now)

    def _stand(self) -> None:
        """Clocks and machines are wrong from the start."""
        for event in self._schedule:
            agent, machine = self._fleet.agents.get(event.who), self._fleet.machines.get(event.who)
            if event.kind == "skew" and (agent is not None or machine is not None):
                clock = agent.clock if agent is not None else self._fleet.machines[event.who].clock
                clock.base += event.amount
                clock.rate += event.drift
            elif event.kind == "slow" and machine is not None:
                machine.sample_seconds *= event.amount

    def _endpoints(self) -> list[Endpoint]:
        hub = [each.endpoint for each in self._fleet.agents.values()]
        return hub + [endpoint for machine in self._fleet.machines.values() for endpoint in machine.endpoints]

    def _due(self, event: FaultEvent) -> None:
        there = not event.who or event.who in self._fleet.agents or event.who in self._fleet.machines
        if self._active and there and self._strike[event.kind](event):
            self.done.append(event)
            if event.kind in _COUNTED:
                self._count(event)

    def _count(self, event: FaultEvent) -> None:
        what = _COUNTED[event.kind]
        if event.kind == "crash" and event.who in self._fleet.agents:
            what = "agent crashes" if event.keep == "all" else f"agent crashes, state {event.keep}"
        elif event.kind == "cut" and event.way != "both":
            what = "partitions one way"
        self.counts[what] = self.counts.get(what, 0) + 1

    def _crash(self, event: FaultEvent) -> bool:
        agent = self._fleet.agents.get(event.who)
        struck = agent or self._fleet.nodes[event.who]
        if not struck.alive:
            return False
        if agent is None:
            self._fleet.kill_machine(event.who)
        else:
            agent.kill(event.keep)
        self._network.at(self._network.now + event.seconds, _begin, struck)
        return True

    def _pause(self, event: FaultEvent) -> bool:
        self._stop_still(self._of(event.who), event.seconds)
        return True

    def _stop_still(self, endpoints: Sequence[Endpoint], seconds: float) -> None:
        for endpoint in endpoints:
            endpoint.paused = max(endpoint.paused, self._network.now + seconds)

    def _cut(self, event: FaultEvent) -> bool:
        until = self._network.now + event.seconds
        for endpoint in self._of(event.who):
            if event.way != "down":
                endpoint.up_cut = max(endpoint.up_cut, until)
            if event.way != "up":
                endpoint.down_cut = max(endpoint.down_cut, until)
        return True

    def _process(self, event: FaultEvent) -> JobProcess | None:
        machine = self._fleet.machines.get(event.who)
        processes = list(machine.jobs.values()) if machine is not None else []
        return processes[int(event.pick * len(processes))] if processes else None

    def _kill(self, event: FaultEvent) -> bool:
        process = self._process(event)
        if process is not None:
            process.kill(_EXIT_KILLED)
        return process is not None

    def _stall(self, event: FaultEvent) -> bool:
        process = self._process(event)
        if process is not None:
            self._stop_still(process.endpoints, event.seconds)
        return process is not None

    def _weather(self, event: FaultEvent) -> bool:
        self._storms += 1
        self._network.set_faults(self._faults)
        self._network.at(self._network.now + event.seconds, self._clear_up)
        return True

    def _clear_up(self, _: object) -> None:
        self._storms -= 1
        if not self._storms:
            self._network.set_faults(self._calm)

    def _of(self, name: str) -> list[Endpoint]:
        agent = self._fleet.agents.get(name)
        return self._fleet.machines[name].endpoints if agent is None else [agent.endpoint]

    def _remember(self, name: str) -> None:
        agent = self._fleet.agents.get(name)
        if self._active and agent is not None and agent.alive:
            agent.remember()


def _begin(participant: Participant) -> None:
    if not participant.alive:
        participant.begin()

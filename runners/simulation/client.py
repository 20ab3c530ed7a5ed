"""Somebody who wants jobs done: submits them one after the other, and asks again until there is an answer."""

from typing import Any

import msgspec

from bus.port import BusError, Interest, Receipt, Start
from bus.simulated_endpoint import Endpoint
from runners.simulation.fleet import Fleet
from schemas.jobs import JobAnswer, JobPhase, JobRequest, JobState
from schemas.wire import Message, encode

# Seconds that an answer is waited for, and between two attempts.
ASK_TIMEOUT = 5.0
ASK_AGAIN = 2.0


class Client:
    """Keeps `at_once` jobs in the fleet until `stop`.

    Attributes:
        accepted: jobs that the desk took.
        states: the newest state of each.
    """

    def __init__(self, fleet: Fleet, request: JobRequest, at_once: int = 1) -> None:
        self._fleet = fleet
        self._request = request
        self._at_once = at_once
        self._endpoint = Endpoint("client", 0.001, 0.0)
        self._number = 0
        self._active = False
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.states: dict[str, JobState] = {}

    def begin(self) -> None:
        """Follow jobs, and submit the first."""
        self._active = True
        self._fleet.network.subscribe(self._endpoint, [Interest(JobState)], self._see, durable="client", start=Start.ALL)
        for _ in range(self._at_once):
            self.submit()

    def stop(self) -> None:
        """Submit nothing more by itself."""
        self._active = False

    def submit(self, **changes: Any) -> str:
        """Submit one more job; gives its id."""
        self._number += 1
        id = f"job{self._number}"
        self._ask(msgspec.structs.replace(self._request, id=id, **changes))
        return id

    @property
    def open(self) -> list[str]:
        """Accepted jobs that have not ended."""
        return [job for job in self.accepted if job not in self.states or not self.states[job].state.ended]

    def ended(self, phase: JobPhase) -> int:
        """How many accepted jobs ended so."""
        return sum(1 for job in self.accepted if job in self.states and self.states[job].state is phase)

    def _ask(self, request: JobRequest) -> None:
        def answered(result: bytes | BusError) -> None:
            if isinstance(result, BusError):
                self._fleet.network.at(self._fleet.network.now + ASK_AGAIN, lambda _: self._ask(request))
                return
            answer = msgspec.json.decode(result, type=JobAnswer)
            if not answer.accepted or answer.job is None:
                self.refused.append(answer.reason or "")
            elif answer.job not in self.accepted:
                self.accepted.append(answer.job)

        self._fleet.requests.ask(self._endpoint, "shoal.jobs.submit", encode(request), ASK_TIMEOUT, answered)

    def _see(self, message: Message, receipt: Receipt | None) -> None:
        if receipt is not None:
            receipt.ack()
        assert isinstance(message, JobState)
        known = self.states.get(message.job)
        if known is not None and message.version <= known.version:
            return
        self.states[message.job] = message
        if message.state.ended and self._active and (known is None or not known.state.ended):
            self.submit()

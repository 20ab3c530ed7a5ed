"""Does to the demo's nodes what the schedule says: by round in the first run, at the same times in the others."""

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass, field

from runners.client import Client
from runners.demo.scenario import FAULTS, NODES, SPIKE_MS, SPIKE_SECONDS, DemoFault
from runners.supervisor import Supervisor
from schemas.emulation import LinkOrder
from schemas.training import RoundClosed


def child_name(node: str) -> str:
    """What the supervisor calls a node's process."""
    return f"node-{node}"


@dataclass
class Injected:
    """Faults of a run, with the seconds after its start at which they came."""

    began: float = field(default_factory=time.monotonic)
    at: list[tuple[float, DemoFault]] = field(default_factory=list)


class FaultScript:
    """Kills, brings back, and gives orders to emulated links."""

    def __init__(self, client: Client, supervisor: Supervisor) -> None:
        self._client = client
        self._supervisor = supervisor
        self._down: set[str] = set()

    async def by_round(self, job: str, injected: Injected) -> None:
        """Follow a job; at the beginning of each round do what is due. Faults whose round the job never sees don't come."""
        due = sorted(FAULTS, key=lambda fault: fault.round)
        async for event in self._client.events(f"shoal.training.{job}.round.*.closed"):
            if not isinstance(event, RoundClosed):
                continue
            while due and due[0].round <= event.round + 1:
                fault = due.pop(0)
                injected.at.append((time.monotonic() - injected.began, fault))
                await self.do(fault)
            if not due:
                return

    async def by_time(self, schedule: Injected) -> None:
        """The same faults at the same times after the start as in another run."""
        began = time.monotonic()
        for at, fault in schedule.at:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            await self.do(fault)

    async def do(self, fault: DemoFault) -> None:
        """One fault."""
        child = child_name(fault.node)
        if fault.do == "kill":
            self._down.add(child)
            await self._supervisor.kill(child, signal.SIGKILL)
        elif fault.do == "return":
            self._down.discard(child)
            await self._supervisor.resume(child)
        else:
            await self._client.publish(
                LinkOrder(
                    node=fault.node,
                    do=fault.do,
                    profile=fault.profile,
                    extra_ms=SPIKE_MS,
                    seconds=SPIKE_SECONDS,
                    reason=fault.words,
                )
            )

    async def undo(self) -> None:
        """Everything as at the beginning: all nodes up, all links as they were."""
        for child in sorted(self._down):
            with contextlib.suppress(Exception):
                await self._supervisor.resume(child)
        self._down.clear()
        for node in NODES:
            await self._client.publish(
                LinkOrder(node=node.name, do="profile", profile=node.link, reason="the demo starts over")
            )

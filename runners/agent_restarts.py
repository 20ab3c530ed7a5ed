"""Carries out what the healer orders of agents: a silent one's process is ended, and the supervisor starts it again."""

import os
import signal
from collections.abc import Callable

from bus.credentials import Secret
from bus.nats import NatsBus
from bus.port import Interest, Receipt, Start, Subscription
from runners.supervisor import Supervisor
from schemas.healing import AgentRestartOrdered
from schemas.wire import Message


class AgentRestarts:
    """Listens for such orders, for agents that this process started: those of other machines have a supervisor there."""

    def __init__(self, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._supervisor = supervisor
        self._say = say
        self._bus: NatsBus | None = None
        self._subscription: Subscription | None = None

    async def listen(self, url: str, token: Secret) -> None:
        """From now on. Raises `Unreachable`."""
        self._bus = await NatsBus.connect(url, source="up", token=token)
        self._subscription = await self._bus.subscribe([Interest(AgentRestartOrdered)], self._receive, start=Start.NEW)

    async def close(self) -> None:
        """No longer."""
        if self._bus is not None:
            await self._bus.close()

    def _receive(self, message: Message, receipt: Receipt | None) -> None:
        if isinstance(message, AgentRestartOrdered):
            self.restart(message.target, message.reason)
        if receipt is not None:
            receipt.ack()

    def restart(self, agent: str, reason: str) -> None:
        """Ends all processes of an agent that run here, standbys too, if it is one of this supervisor's; it hangs, so by
        SIGKILL. Nodes that happen to have its name are named otherwise here."""
        for child in self._supervisor.names:
            pid = self._supervisor.pid(child) if child.partition("@")[0] == agent else None
            if pid is not None:
                self._say(f"{child}: ended, to be started again: {reason}")
                os.kill(pid, signal.SIGKILL)

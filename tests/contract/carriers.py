"""What a carrier brings to the contract suite, and what the suite's tests share.

A carrier joins by one line in `CARRIERS`: a module of this folder that has `carrier(tmp_path)`, an asynchronous context
manager giving a `Carrier`. Every test of `test_contract_*.py` then runs on it.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from bus.port import Bus, Receipt
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeLeaving
from schemas.wire import Message, seal

CARRIERS = {
    "nats": "carriers_nats",
    "simulated": "carriers_simulated",
    "cluster": "carriers_cluster",
}
SLOW = frozenset({"cluster"})
"""Those that take seconds to be there: for `-m search`."""


class Carrier(Protocol):
    """A carrier under test, with a server (or what stands for one) that can be taken away."""

    async def open(self, source: str) -> Bus:
        """A new participant. Its unacknowledged messages come again, and its stored publishes give up, within seconds."""

    async def inject(self, subject: str, data: bytes) -> None:
        """What a foreign client puts on a subject: any bytes, stored where the subject is one of a stored type."""

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds, which is looked at after each message that a `Collector` gets (see its
        `watchers`); fails the test if that doesn't come within a generous time of the carrier's."""

    async def settle(self) -> None:
        """Returns when everything published before has been delivered, so that a test may say what did not come."""

    async def kill_server(self) -> None:
        """The server dies without a warning and comes back on the same address and store; returns once it is back."""

    async def stop_server(self) -> None:
        """The server goes away until `start_server`."""

    async def start_server(self) -> None:
        """The server comes back with what it had stored."""


def load(name: str, tmp_path: Path) -> AbstractAsyncContextManager[Carrier]:
    """The carrier of that name, with nothing in its store."""
    made: AbstractAsyncContextManager[Carrier] = importlib.import_module(CARRIERS[name]).carrier(tmp_path)
    return made


class Collector:
    """A handler that keeps what it gets, and acknowledges unless told not to."""

    watchers: ClassVar[set[Callable[[], None]]] = set()
    """Called after each message: how a carrier's `wait` learns that a condition may hold now."""

    def __init__(self, *, ack: bool = True) -> None:
        self.messages: list[Any] = []
        self.receipts: list[Receipt | None] = []
        self.acks = ack

    def __call__(self, message: Message, receipt: Receipt | None) -> None:
        self.messages.append(message)
        self.receipts.append(receipt)
        if self.acks and receipt is not None:
            receipt.ack()
        for watcher in self.watchers:
            watcher()

    def has(self, count: int) -> Callable[[], bool]:
        """For `Carrier.wait`: at least so many messages came."""
        return lambda: len(self.messages) >= count

    @property
    def ids(self) -> list[str]:
        """Ids of all messages, in order of their coming."""
        return [message.id for message in self.messages]


def sealed(message: Message, number: int, source: str = "tester") -> Message:
    """The message with an envelope; its id is `<source>:1:<number>`."""
    return seal(message, id=f"{source}:1:{number}", cause="", at=float(number), source=source)


def heartbeat(number: int, node: str = "a") -> NodeHeartbeat:
    """TELEMETRY."""
    message = sealed(NodeHeartbeat(node=node, sequence=number, interval=1.0), number)
    assert isinstance(message, NodeHeartbeat)
    return message


def leaving(number: int, node: str = "a", reason: str = "asked to") -> NodeLeaving:
    """RECORD."""
    message = sealed(NodeLeaving(node=node, reason=reason), number)
    assert isinstance(message, NodeLeaving)
    return message


def quality(number: int, node: str = "a") -> LinkQualityChanged:
    """LAST_VALUE; its version is the number."""
    message = sealed(
        LinkQualityChanged(
            node=node,
            version=number,
            quality=LinkQuality.GOOD,
            previous=None,
            score=80.0,
            latency_ms=12.0,
            jitter_ms=1.0,
            loss=0.0,
            trend="stable",
            reason="first probes",
        ),
        number,
    )
    assert isinstance(message, LinkQualityChanged)
    return message

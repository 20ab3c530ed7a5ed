"""Events on their way to somebody who reads them one by one: a bounded number, telemetry dropped before what is stored."""

import asyncio

from bus.port import Receipt
from schemas.bus import BusDisturbed
from schemas.wire import Delivery, Message, wire_of

MOST = 10_000
"""Events that wait for a reader: a second of the busiest fleet. Some 10 MB."""


class EventInbox:
    """A queue between a subscription and a reader.

    Telemetry that finds it full is dropped and counted, and its reader told by a `BusDisturbed`. A stored message is left
    with the server, unacknowledged, and with it those after it in its stream, so that order is kept; the server delivers
    them again.

    Attributes:
        dropped: telemetry that was.
    """

    def __init__(self, most: int = MOST) -> None:
        self.dropped = self._told = 0
        self._most = most
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        self._left: dict[Delivery, set[int]] = {}

    def put(self, message: Message, receipt: Receipt | None) -> None:
        """One has come."""
        full = self._waiting.qsize() >= self._most
        if receipt is None:
            if full:
                self.dropped += 1
            else:
                self._waiting.put_nowait(message)
            return
        # As many at most as the server leaves unacknowledged.
        left = self._left.setdefault(wire_of(type(message)).delivery, set())
        if full or (left and min(left) < receipt.sequence):
            left.add(receipt.sequence)
            return
        left.discard(receipt.sequence)
        self._waiting.put_nowait(message)
        receipt.ack()

    async def get(self) -> Message:
        """The next one."""
        if self.dropped > self._told:
            self._told = self.dropped
            reason = f"{self.dropped} messages of telemetry so far were dropped: they came faster than they were read here"
            return BusDisturbed(kind="slow_consumer", reason=reason)
        return await self._waiting.get()

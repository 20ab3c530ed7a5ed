"""Orders that come over the bus: an emulated link obeys `shoal.emulation.<node>.order` and says what it did.

The connection goes to the server directly, not over the link: a link that is down must still hear that it may heal.
"""

import asyncio
import contextlib
import itertools
import logging
import time

from bus.backoff import RestartHistory, RestartPolicy
from bus.credentials import Secret
from bus.nats import NatsBus
from bus.port import BusError, Interest, Receipt
from bus.shaping.control import Done, LinkControl, order_of
from schemas.bus import MessageRejected
from schemas.emulation import EmulatedLinkChanged, LinkOrder
from schemas.errors import ShoalError
from schemas.wire import Message, encode, seal, subject_of

SAY_GOODBYE_WITHIN = 0.3
"""Seconds that the end of the program waits for the server."""

MOST_UNSAID = 256
"""Announcements kept while the server is away; orders are rare, so that more means that it is gone for good."""

log = logging.getLogger(__name__)


class OrderReader:
    """One emulated link's ear and voice on the bus."""

    def __init__(self, control: LinkControl, url: str, node: str, token: Secret = None) -> None:
        self._control = control
        self._url = url
        self._node = node
        self._token = token
        self._source = f"emulator/{node}"
        self._born = int(time.time() * 1000)
        self._numbers = itertools.count(1)
        self._rejected = 0
        self._unsaid: asyncio.Queue[Message] = asyncio.Queue(MOST_UNSAID)
        control.announce = self._announce

    async def run(self) -> None:
        """Obey until cancelled; the server may come up later, go, and come back."""
        bus = await self._join()
        try:
            while True:
                message = await self._unsaid.get()
                try:
                    await bus.publish(message)
                except BusError as error:
                    log.warning("a change of the emulated link could not be announced: %s", error)
        finally:
            with contextlib.suppress(TimeoutError, BusError):
                await asyncio.wait_for(bus.close(), SAY_GOODBYE_WITHIN)

    async def _join(self) -> NatsBus:
        attempts = RestartHistory(RestartPolicy())
        while True:
            started = time.monotonic()
            try:
                return await self._try_to_join()
            except BusError as error:
                log.warning("the emulated link of %s takes no orders yet: %s", self._node, error)
            await asyncio.sleep(attempts.exited(started=started, now=time.monotonic()).delay)

    async def _try_to_join(self) -> NatsBus:
        bus = await NatsBus.connect(self._url, source=self._source, token=self._token)
        try:
            await bus.subscribe([Interest(LinkOrder, {"node": self._node})], self._obey)
        except BaseException:
            await bus.close()
            raise
        return bus

    def _obey(self, message: Message, receipt: Receipt | None) -> None:
        if not isinstance(message, LinkOrder):
            return
        try:
            reason = message.reason or f"ordered by {message.source or 'a client'}"
            self._control.carry_out(order_of(message), reason=reason, cause=message.id)
        except ShoalError as error:
            self._rejected += 1
            log.warning("an order to the emulated link of %s was refused: %s", self._node, error)
            rejection = MessageRejected(
                subject=subject_of(message), field="$", reason=str(error), size=len(encode(message)), count=self._rejected
            )
            self._say(rejection, cause=message.id)

    def _announce(self, done: Done) -> None:
        self._say(EmulatedLinkChanged(node=self._node, do=done.do, profile=done.profile, reason=done.reason), done.cause)

    def _say(self, message: Message, cause: str) -> None:
        name = f"{self._source}:{self._born}:{next(self._numbers)}"
        with contextlib.suppress(asyncio.QueueFull):
            self._unsaid.put_nowait(seal(message, id=name, cause=cause, at=time.time(), source=self._source))

"""Answering requests over NATS, side by side."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as CoreSubscription

from bus.nats_link import Link

log = logging.getLogger("shoal.bus")

_MOST_AT_ONCE = 1024  # requests under way: twice what a host lets wait before it refuses more
_CLOSE_PATIENCE = 2.0  # seconds each that closing waits for the server and for answers under way


class Service:
    """Answers the requests of one subject."""

    def __init__(self, responder: Callable[[Msg], Awaitable[bytes]], link: Link, gone: Callable[["Service"], None]) -> None:
        self.core: CoreSubscription | None = None
        self._responder = responder
        self._link = link
        self._gone = gone
        self._answering: set[asyncio.Task[None]] = set()

    async def asked(self, msg: Msg) -> None:
        """A request has come: answered in a task of its own, so that a slow answer holds up nobody."""
        if len(self._answering) >= _MOST_AT_ONCE:
            self._link.dropped += 1  # unanswered: whoever asked asks again
            return
        task = asyncio.get_running_loop().create_task(self._answer(msg))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, msg: Msg) -> None:
        try:
            answer = await self._responder(msg)
        except Exception:
            log.exception("a request on %s was not answered: its responder raised", msg.subject)
            return
        if msg.reply:
            self._link.post(msg.reply, answer)

    async def stop(self) -> None:
        """Take no more requests; those taken are answered, if that takes no longer than a few seconds."""
        core, self.core = self.core, None
        if core is not None:
            await self._link.silence(core)
            await self._link.round_trip(_CLOSE_PATIENCE)
        if self._answering:
            await asyncio.wait(self._answering, timeout=_CLOSE_PATIENCE)
        for task in self._answering:
            task.cancel()
        self._gone(self)

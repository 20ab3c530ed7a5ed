"""Streams that are full on purpose: the server refuses what is published, as when there is no room left for it.

The disk itself stays as it is. Each stream's limit is put down to what it holds, and it is told to refuse what is new
instead of forgetting what is old.
"""

import asyncio
import contextlib
from typing import Any, Self

from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import NotFoundError

from bus.credentials import Secret
from bus.nats_link import Link
from bus.nats_objects import STREAM as OBJECTS
from bus.nats_streams import AUDIT, JOURNAL, LATEST, RECORD
from bus.port import Unreachable

STREAMS = (RECORD, LATEST, AUDIT, JOURNAL, OBJECTS)
"""All that Shoal stores goes into these; some are made when they are first needed."""

_TIMEOUT = 5.0  # seconds for an answer of JetStream's
_ATTEMPTS = 6  # at putting a stream right again, a time-out each: a server that restarts meanwhile is back by then

Limits = dict[str, tuple[int, str]]
"""By stream: its limit in bytes, and what it does with what is over it (`old`, `new`)."""


class Streams:
    """Shoal's streams, to count what is in them and to limit them. Use it as an async context manager."""

    def __init__(self, url: str, token: Secret) -> None:
        self._link = Link(url, "drill", token, None)

    async def __aenter__(self) -> Self:
        await self._link.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._link.close()

    @property
    def _js(self) -> JetStreamContext:
        return self._link.nc.jetstream(timeout=_TIMEOUT)

    async def counts(self) -> dict[str, int]:
        """Messages in each stream. Raises `Unreachable`."""
        return {name: int(info.state.messages) for name, info in (await self._infos()).items()}

    async def limits(self) -> Limits:
        """How full the streams may get. Raises `Unreachable`."""
        infos = await self._infos()
        return {name: (int(info.config.max_bytes or -1), _word(info.config)) for name, info in infos.items()}

    async def fill(self) -> None:
        """From now on the server refuses whatever would be stored. Raises `Unreachable`, with some of them full perhaps."""
        for name, info in (await self._infos()).items():
            await self._update(name, info.config, max(1, int(info.state.bytes)), DiscardPolicy.NEW)

    async def restore(self, limits: Limits) -> None:
        """Give the streams these limits. Raises `Unreachable` where the server stays away."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                infos = await self._infos()
                for name, (most, discard) in limits.items():
                    if name in infos:
                        await self._update(name, infos[name].config, most, DiscardPolicy(discard))
                return
            except Unreachable:
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(1.0)  # the connection comes back by itself

    async def _infos(self) -> dict[str, Any]:
        found = {}
        try:
            for name in STREAMS:
                with contextlib.suppress(NotFoundError):
                    found[name] = await self._js.stream_info(name)
        except Error as error:
            raise Unreachable(f"JetStream on {self._link.address} does not answer ({error}): is the server up?") from error
        return found

    async def _update(self, name: str, config: StreamConfig, most: int, discard: DiscardPolicy) -> None:
        try:
            await self._js.update_stream(config.evolve(max_bytes=most, discard=discard))
        except Error as error:
            raise Unreachable(f"{name} can't be changed ({error}): is the server up?") from error


def _word(config: StreamConfig) -> str:
    return DiscardPolicy(config.discard or DiscardPolicy.OLD).value

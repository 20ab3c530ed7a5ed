"""Logs on NATS: a subject each in a stream of their own, appended to by compare-and-set on the subject's last sequence."""

import contextlib
from collections.abc import Callable

from nats import errors
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from bus.nats_link import Link
from bus.nats_publish import StreamPublisher
from bus.nats_pull import StoredReceipt, StreamReader
from bus.nats_streams import JOURNAL, make_stream
from bus.port import Start, SubjectTaken, Superseded, Unreachable

PREFIX = "journal."
# Bytes that all logs have together. Writers trim theirs long before; one that grows beyond loses its beginning, which its
# readers notice.
_BYTES = 1024 * 1024 * 1024
_DUPLICATES = 120.0  # seconds in which a second append of one name is known: longer than one is tried
_TIMEOUT = 10.0  # seconds for a request to JetStream's API


class NatsLog:
    """See `bus.port.Log`."""

    def __init__(self, name: str, link: Link, publisher: StreamPublisher, ack_wait: float) -> None:
        self.name = name
        self._link = link
        self._publisher = publisher
        self._ack_wait = ack_wait
        self._made = False

    async def append(self, data: bytes, *, after: int, name: str) -> int:
        """See `bus.port.Log.append`."""
        await self._make()
        try:
            return await self._publisher.store(PREFIX + self.name, data, name, False, after=after)
        except SubjectTaken:
            raise Superseded(self.name) from None
        except Unreachable:
            self._made = False  # a server that came back with an empty store has no such stream
            raise

    async def follow(self, handler: Callable[[int, bytes], None]) -> StreamReader:
        """See `bus.port.Log.follow`."""
        await self._make()

        def deliver(msg: Msg, receipt: StoredReceipt) -> None:
            receipt.ack()
            handler(receipt.sequence, msg.data)

        reader = StreamReader(
            self._link, JOURNAL, [PREFIX + self.name], deliver, durable=None, start=Start.ALL, ack_wait=self._ack_wait
        )
        try:
            await reader.open()
        except errors.Error as error:
            await reader.stop()
            raise Unreachable(f"{self._link.address} gives no subscription ({error}): is the server up?") from error
        return reader

    async def trim(self, before: int | None) -> None:
        """See `bus.port.Log.trim`."""
        with contextlib.suppress(errors.Error):  # what is kept too long is trimmed the next time
            await self._link.nc.jetstream(timeout=_TIMEOUT).purge_stream(JOURNAL, seq=before, subject=PREFIX + self.name)

    async def _make(self) -> None:
        if self._made:
            return
        await self._link.wait_up(_TIMEOUT)
        await make_logs(self._link)
        self._made = True


async def make_logs(link: Link) -> None:
    """Make the stream that all logs are in, where it is missing. Raises `Unreachable`, `BusError`."""
    await make_stream(
        link,
        StreamConfig(
            name=JOURNAL,
            description="Shoal: journals of agents that have standbys",
            subjects=[PREFIX + "*"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_bytes=_BYTES,
            duplicate_window=_DUPLICATES,
            allow_direct=True,
        ),
    )

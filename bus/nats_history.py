"""Reading what a stream holds now, from its first message to its last, and no further."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from bus.nats_link import Link
from bus.nats_pull import coordinates
from bus.port import Unreachable

_BATCH = 500  # messages a pull: at 500 bytes each a quarter of a mebibyte, which is on its way while the last is decoded
_ANSWER_TIMEOUT = 10.0  # seconds without anything of a batch, after which the read begins again where it stood
_ATTEMPTS = 5  # beginnings without a single message between them
_PAUSE = 2.0  # seconds between two such beginnings where servers may be choosing who leads the stream
_BEHIND = 0.05  # seconds until a server that hasn't all of a stream yet is looked at again
_FORGOTTEN_AFTER = 60.0  # seconds after which the server drops a read that was left in the middle


class _Broken(Exception):
    """The read stopped in the middle: the server or its consumer went away."""


async def read_stored(link: Link, stream: str, filters: list[str], *, order_from: int = 1) -> AsyncIterator[Msg]:
    """The messages of a stream on these subjects that are stored when the read begins, in order.

    Raises:
        Unreachable: the server stayed away.
    """
    position, idle_attempts = order_from, 0
    newest: int | None = None
    while True:
        before = position
        try:
            if link.distant and newest is None:
                newest = await _newest(link, stream, filters)
            async for msg, sequence in _read_from(link, stream, filters, position):
                position = sequence + 1
                yield msg
            # In a cluster any server serves reads, and that one may be behind the stream's leader.
            if newest is None or position > min(newest, await _newest(link, stream, filters)):
                return
            await asyncio.sleep(_BEHIND)
        except (_Broken, errors.Error) as error:
            idle_attempts = idle_attempts + 1 if position == before else 0
            if isinstance(error, NotFoundError):
                return  # no such stream: nothing is stored
            if idle_attempts >= _ATTEMPTS:
                raise Unreachable(f"{stream} on {link.address} can't be read ({error}): is the server up?") from error
            if link.distant:
                await asyncio.sleep(_PAUSE)
            await link.wait_up(_ANSWER_TIMEOUT)


async def _newest(link: Link, stream: str, filters: list[str]) -> int:
    """The sequence of the last message on these subjects, by the stream's leader; 0 where there is none."""

    async def last(subject: str) -> int:
        try:
            return (await link.nc.jetstream().get_last_msg(stream, subject)).seq or 0
        except NotFoundError:
            return 0

    return max(await asyncio.gather(*(last(subject) for subject in filters)))


async def _read_from(link: Link, stream: str, filters: list[str], first: int) -> AsyncIterator[tuple[Msg, int]]:
    """(message, its sequence) from sequence `first` to what was the last when this began."""
    config = ConsumerConfig(
        name=link.nc.new_inbox().rpartition(".")[2],  # of our own making: members may have no others
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        inactive_threshold=_FORGOTTEN_AFTER,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=first,
    )
    narrowed = {"filter_subject": filters[0]} if len(filters) == 1 else {"filter_subjects": sorted(set(filters))}
    info = await link.nc.jetstream().add_consumer(stream, config.evolve(**narrowed))
    left = info.num_pending or 0
    arrived: asyncio.Queue[Msg | None] = asyncio.Queue()

    async def received(msg: Msg) -> None:
        arrived.put_nowait(msg)

    def lost() -> None:
        arrived.put_nowait(None)

    link.on_back.append(lost)
    inbox = link.nc.new_inbox()
    subscription = await link.nc.subscribe(inbox, cb=received)
    try:
        while left > 0:
            batch = min(_BATCH, left)
            link.post(
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{info.name}",
                msgspec.json.encode({"batch": batch, "no_wait": True}),
                inbox,
            )
            for _ in range(batch):
                msg = await _next(arrived)
                if not msg.reply:
                    if (msg.headers or {}).get("Status") == "404":
                        return  # some were removed meanwhile: there are no more
                    raise _Broken(str(msg.headers))
                left -= 1
                yield msg, coordinates(msg.reply)[1]
    finally:
        link.on_back.remove(lost)
        if not link.nc.is_closed:
            await subscription.unsubscribe()
            link.post(f"$JS.API.CONSUMER.DELETE.{stream}.{info.name}", b"", inbox)


async def _next(arrived: "asyncio.Queue[Msg | None]") -> Msg:
    try:
        if arrived.empty():
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                msg = await arrived.get()
        else:
            msg = arrived.get_nowait()
    except TimeoutError:
        raise _Broken(f"nothing came for {_ANSWER_TIMEOUT:.0f} s") from None
    if msg is None:
        raise _Broken("the connection was lost")
    return msg

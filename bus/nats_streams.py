"""The JetStream streams, made from the registry: one for RECORD, one for LAST_VALUE, one for AUDIT."""

import asyncio
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.errors import Error, NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

import schemas.catalogue  # noqa: F401 - the registry is complete only with every message module imported
from bus.nats_link import Link, is_clustered
from bus.port import BusError, Unreachable
from schemas.wire import Delivery, registered

RECORD = "SHOAL_RECORD"
LATEST = "SHOAL_LATEST"
AUDIT = "SHOAL_AUDIT"
JOURNAL = "SHOAL_JOURNAL"
"""Logs (`bus.nats_log`), one a subject; made when the first is used."""
STREAM_OF = {Delivery.RECORD: RECORD, Delivery.LAST_VALUE: LATEST, Delivery.AUDIT: AUDIT}

_MIB = 1024 * 1024
_DAY = 86_400.0  # seconds
_RECORD_BYTES = 2048 * _MIB  # some four million events of 500 bytes: weeks of a busy fleet; the oldest go first
_RECORD_AGE = 30 * _DAY  # a job that ended longer ago is in the recorder's history, not here
_LATEST_BYTES = 256 * _MIB  # a value per node and per job: 10,000 nodes with 10 KB each, twice over
_LATEST_AGE = 366 * _DAY  # a value holds until superseded; this only clears away what everybody has forgotten
_AUDIT_BYTES = 64 * _MIB  # a hundred thousand acts of 600 bytes
_AUDIT_AGE = 366 * _DAY  # a year of who let whom in; the oldest entries go, and the chain is checked from what is left
# Seconds in which the server itself drops a second message with a known `Nats-Msg-Id`. It keeps the ids in memory, so it is
# short, but longer than a publisher tries to store one message and than an agent takes to restart and redo its last
# effects. Receivers drop later duplicates by the message's `id`.
_DUPLICATE_WINDOW = 120.0
_MADE_TIMEOUT = 10.0  # seconds for the server to make a stream of its own
COPIES = 3
"""Of each stream on servers of a cluster: one may be lost, and the two left agree on what is stored."""
# Seconds that the servers of a cluster may take to find each other, or to agree on another leader; they need some three.
_FORMING = 30.0
_ASK_AGAIN = 0.2  # seconds between attempts meanwhile
# Seconds for an answer at first, doubled each time: a bad link takes longer, a server that knows of no leader for ever.
_FIRST_PATIENCE = 1.0
_TOO_FEW_SERVERS = (10005, 10074)  # JetStream's error codes for a stream that is to have more copies than it has servers


def configs() -> list[StreamConfig]:
    """What the streams should be. Every type brings its own pattern: nothing else is captured, above all no requests."""

    def subjects(delivery: Delivery) -> list[str]:
        return sorted(wire.pattern for wire in registered() if wire.delivery is delivery)

    common = {
        "retention": RetentionPolicy.LIMITS,
        "storage": StorageType.FILE,
        "discard": DiscardPolicy.OLD,
        "duplicate_window": _DUPLICATE_WINDOW,
        "allow_direct": True,
    }
    return [
        StreamConfig(
            name=RECORD,
            description="Shoal: facts, each kept",
            subjects=subjects(Delivery.RECORD),
            max_bytes=_RECORD_BYTES,
            max_age=_RECORD_AGE,
            **common,  # type: ignore[arg-type]
        ),
        StreamConfig(
            name=LATEST,
            description="Shoal: the newest value of each subject",
            subjects=subjects(Delivery.LAST_VALUE),
            max_msgs_per_subject=1,
            max_bytes=_LATEST_BYTES,
            max_age=_LATEST_AGE,
            **common,  # type: ignore[arg-type]
        ),
        StreamConfig(
            name=AUDIT,
            description="Shoal: what administrators did",
            subjects=subjects(Delivery.AUDIT),
            max_bytes=_AUDIT_BYTES,
            max_age=_AUDIT_AGE,
            deny_delete=True,
            deny_purge=True,
            **common,  # type: ignore[arg-type]
        ),
    ]


async def ensure_streams(nc: Client, timeout: float) -> None:
    """Make the streams that are missing, widen those that lack subjects of newer types.

    Subjects are only ever added: participants of several versions may share a server.

    Raises:
        Unreachable: the server has no JetStream, or refuses the streams.
    """

    async def make(js: JetStreamContext) -> None:
        await asyncio.gather(*(_ensure(js, _copied(nc, config)) for config in configs()))

    try:
        await _patiently(nc, make, timeout)
    except (ServiceUnavailableError, NoRespondersError) as error:
        raise Unreachable(
            "the server has no JetStream: start it with `shoal up`, or with `jetstream {}` configured"
        ) from error
    except NatsTimeout as error:
        raise Unreachable(
            "the server's JetStream does not answer: is its disk full or its cluster without a leader?"
        ) from error
    except APIError as error:
        raise Unreachable(
            f"the server refuses Shoal's streams ({error.description}): raise its JetStream limits, remove older streams"
            f" of these subjects with `nats stream rm`, or have at least {COPIES} servers with JetStream in a cluster"
        ) from error


async def make_stream(link: Link, config: StreamConfig) -> None:
    """Make one stream, where it is missing.

    Raises:
        Unreachable: JetStream doesn't answer.
        BusError: the server refuses it.
    """
    try:
        await _patiently(link.nc, lambda js: _ensure(js, _copied(link.nc, config)), _MADE_TIMEOUT)
    except APIError as error:
        raise BusError(f"{config.name} can't be made ({error.description}): raise the server's JetStream limits") from error
    except Error as error:
        raise Unreachable(f"JetStream on {link.address} does not answer: is the server up?") from error


def _copied(nc: Client, config: StreamConfig) -> StreamConfig:
    return config.evolve(num_replicas=COPIES if is_clustered(nc) else 1)


async def _patiently(nc: Client, make: Callable[[JetStreamContext], Awaitable[None]], timeout: float) -> None:
    """Do it with `timeout` seconds for an answer; on a cluster again for as long as it may have no leader.

    What is asked of servers that haven't found each other, or are choosing a leader, is not always answered.
    """
    if not is_clustered(nc):
        await make(nc.jetstream(timeout=timeout))
        return
    loop = asyncio.get_running_loop()
    until, patience = loop.time() + _FORMING, _FIRST_PATIENCE
    while True:
        try:
            await make(nc.jetstream(timeout=patience))
            return
        except (ServiceUnavailableError, NoRespondersError, NatsTimeout, APIError) as error:
            refused = isinstance(error, APIError) and not isinstance(error, ServiceUnavailableError)
            if (refused and getattr(error, "err_code", None) not in _TOO_FEW_SERVERS) or loop.time() >= until:
                raise
        patience = min(timeout, 2 * patience)
        await asyncio.sleep(_ASK_AGAIN)


async def _ensure(js: JetStreamContext, wanted: StreamConfig) -> None:
    assert wanted.name is not None
    try:
        found = (await js.stream_info(wanted.name)).config
    except NotFoundError:
        await js.add_stream(wanted)
        return
    there, ours = set(found.subjects or ()), set(wanted.subjects or ())
    if not ours <= there:
        await js.update_stream(wanted.evolve(subjects=sorted(there | ours)))

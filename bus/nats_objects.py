"""Large values in JetStream: the layout of NATS's object store (ADR-20), so that `nats object` reads them too.

Written with many publishes under way and read by pulls: several times as fast as nats-py's own object store, which waits
for each chunk's acknowledgement and reads by an iterator.
"""

import asyncio
import base64
import contextlib
import datetime
import hashlib
from collections.abc import Callable

import msgspec
from nats import errors
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from bus.nats_history import read_stored
from bus.nats_link import Link
from bus.nats_publish import StreamPublisher
from bus.nats_streams import make_stream
from bus.port import BusError, Unreachable
from schemas.errors import FAULTS

BUCKET = "shoal-objects"
STREAM = f"OBJ_{BUCKET}"

_CHUNK = 128 * 1024  # bytes: what every client of the object store uses
_UNDER_WAY = 256  # chunks handed over to be stored, and copied for that, at a time: the rate is flat from there on
_ATTEMPTS, _PAUSE = 8, 2.0  # and seconds between: servers that choose another leader, or a line that is cut, take some
_HASH_IN_THREAD = 4 * 1024 * 1024  # bytes from which hashing (some 1 GB/s) would hold up the loop for over 4 ms


class _Options(msgspec.Struct):
    max_chunk_size: int = _CHUNK


class _Meta(msgspec.Struct, omit_defaults=True):
    """What the bucket says of one object."""

    name: str
    bucket: str = ""
    nuid: str = ""
    size: int = 0
    mtime: str = ""
    chunks: int = 0
    digest: str = ""
    deleted: bool = False
    options: _Options | None = None


_META = msgspec.json.Decoder(_Meta)


class CorruptObject(BusError):
    """A value in the object store is not what was put there. Attribute: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the object {name!r} is damaged in the store: remove it with `nats object rm {BUCKET} {name}`")
        self.name = name


class ObjectTooLarge(BusError):
    """A value in the object store is larger than whoever reads it takes. Attributes: `name`, `limit` (bytes)."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"the object {name!r} has more than the {limit} bytes that it should have at most")
        self.name = name
        self.limit = limit


class ObjectStore:
    """Puts and gets of whole values."""

    def __init__(self, link: Link, publisher: StreamPublisher) -> None:
        self._link = link
        self._publisher = publisher
        self._made = False

    async def put(self, name: str, data: bytes) -> None:
        """Keep `data` under a name; an older value is removed once the new one is there."""
        await self.make()
        older = await self._meta(name)
        nuid = self._link.nc.new_inbox().rpartition(".")[2]
        subject = f"$O.{BUCKET}.C.{nuid}"
        view = memoryview(data)
        count = -(-len(data) // _CHUNK)
        left = iter(range(count))

        async def send() -> None:
            for index in left:
                part = bytes(view[index * _CHUNK : (index + 1) * _CHUNK])
                await self._publisher.store(subject, part, f"{nuid}:{index}", False)

        sending = asyncio.gather(*(send() for _ in range(min(count, _UNDER_WAY))))
        digest, _ = await asyncio.gather(_digest(data), sending)
        meta = _Meta(
            name=name,
            bucket=BUCKET,
            nuid=nuid,
            size=len(data),
            mtime=datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
            chunks=count,
            digest=digest,
            options=_Options(),
        )
        # The stream keeps one message of a subject of metadata, so the newest is the only one.
        await self._publisher.store(_meta_subject(name), msgspec.json.encode(meta), f"{nuid}:meta", False, rollup=True)
        if older is not None:
            with contextlib.suppress(errors.Error):
                await self._link.nc.jetstream().purge_stream(STREAM, subject=f"$O.{BUCKET}.C.{older.nuid}")

    async def get(self, name: str, *, limit: int | None = None, arrived: Callable[[], None] | None = None) -> bytes:
        """The value; `arrived` is called with each part of it that comes.

        Raises:
            KeyError: there is none.
            CorruptObject: its hash is wrong.
            ObjectTooLarge: it has more than `limit` bytes, whatever it says of itself.
        """
        meta = await self._meta(name)
        if meta is None:
            raise KeyError(name)
        if limit is not None and meta.size > limit:
            raise ObjectTooLarge(name, limit)
        parts: list[bytes] = []
        size = 0
        if meta.size:
            async for msg in read_stored(self._link, STREAM, [f"$O.{BUCKET}.C.{meta.nuid}"]):
                parts.append(msg.data)
                size += len(msg.data)
                if limit is not None and size > limit:
                    raise ObjectTooLarge(name, limit)
                if arrived is not None:
                    arrived()
        data = b"".join(parts)
        if len(data) != meta.size or await _digest(data) != meta.digest:
            newer = await self._meta(name)
            if newer is not None and newer.nuid != meta.nuid:
                return await self.get(name, limit=limit, arrived=arrived)  # replaced while it was read
            raise CorruptObject(name)
        return data

    async def _meta(self, name: str) -> _Meta | None:
        left = _ATTEMPTS if self._link.distant else 1
        while True:
            left -= 1
            try:
                # Of the stream's leader, which has whatever was put; another server may not have it yet.
                found = await self._link.nc.jetstream().get_last_msg(STREAM, _meta_subject(name))
                break
            except NotFoundError:
                return None
            except errors.Error as error:
                if not left:
                    why = f"the object store on {self._link.address} does not answer: is the server up?"
                    raise Unreachable(why) from error
                await asyncio.sleep(_PAUSE)
        try:
            meta = _META.decode(found.data or b"{}")
        except FAULTS:
            raise CorruptObject(name) from None
        return None if meta.deleted else meta

    async def make(self) -> None:
        """Make the bucket where it is missing. Raises `Unreachable`, and `BusError` where the server refuses it."""
        if self._made:
            return
        await make_stream(
            self._link,
            StreamConfig(
                name=STREAM,
                description="Shoal: models, checkpoints and reports",
                subjects=[f"$O.{BUCKET}.C.>", f"$O.{BUCKET}.M.>"],
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW,  # full: a put fails, rather than an older model losing its beginning
                allow_rollup_hdrs=True,
                allow_direct=True,
            ),
        )
        self._made = True


def _meta_subject(name: str) -> str:
    return f"$O.{BUCKET}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


async def _digest(data: bytes) -> str:
    hashed = await asyncio.to_thread(hashlib.sha256, data) if len(data) >= _HASH_IN_THREAD else hashlib.sha256(data)
    return "SHA-256=" + base64.urlsafe_b64encode(hashed.digest()).decode()

"""A client of a fleet: submits jobs, reads what is said. `import shoal` offers it to other people's code."""

import asyncio
import contextlib
import heapq
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

import schemas.catalogue  # noqa: F401 - completes the registry
from bus.credentials import Secret
from bus.nats import NatsBus
from bus.port import BusError, Interest, NoResponders, Receipt
from runners.address import STORE, Address, find_server
from runners.bundles.submitting import make_bundle
from runners.event_inbox import EventInbox
from runners.members.renewing import renew_if_due
from schemas.errors import DecodeError, ShoalError
from schemas.ids import token
from schemas.jobs import CancelRequest, JobAnswer, JobList, JobQueued, JobRequest, JobState, JobSummary, ListRequest
from schemas.requests import decode_request
from schemas.wire import Delivery, Message, encode, registered, seal, subject_of, wire_of

ANSWER_SECONDS = 10.0  # for the desk to answer; it stores the acceptance first
EVERYTHING = "shoal.>"  # all but tensors
WILDCARDS = ("*", ">")
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no characters that are mistaken for one another


class Refused(ShoalError):
    """The desk refused a request.

    Attributes: `field` (JSON path), `reason`, `retry_after` (seconds until it may be accepted; None: it never will).
    """

    def __init__(self, field: str, reason: str, retry_after: float | None = None) -> None:
        again = f"; try again in {retry_after:.0f} s" if retry_after is not None else ""
        super().__init__(f"refused at {field}: {reason}{again}")
        self.field = field
        self.reason = reason
        self.retry_after = retry_after


class SentBundle(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent along with a job."""

    digest: str
    size: int
    """Bytes, before compression."""
    submitter: str
    """The public key that nodes have to trust."""
    files: tuple[str, ...]


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job that was submitted."""

    job: str
    queued: bool = False
    """No desk answered: the request is stored, and the next desk takes it."""
    bundle: SentBundle | msgspec.UnsetType = msgspec.UNSET
    """The source that went along, if some did."""


class Client:
    """A connection to a fleet. Use it as an async context manager, or `close` it."""

    def __init__(self, bus: NatsBus, address: Address, store: Path = STORE) -> None:
        self.bus = bus
        self.address = address
        self.store = store
        self._sequence = 0
        self._life = int(time.time() * 1000)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave."""
        await self.bus.close()

    async def submit(
        self,
        request: JobRequest | Mapping[str, Any],
        *,
        queue: bool = True,
        bundle: Path | str | None = None,
        files: Sequence[str] = (),
    ) -> Accepted:
        """Submit a job.

        Where no desk answers, the request is stored for the next one (with `queue`). With `bundle`, the directory that the
        workload is found in, its source travels along, signed with this store's key; `files` are paths or globs in that
        directory to add (`"data/words.txt"`) or to leave out (`"!drafts"`).

        Raises:
            Refused: the desk, or the request's own form, says no.
            BundleError: the workload can't be packed.
            NoResponders: no desk, and `queue` is false.
            TimedOut: the desk didn't answer.
        """
        if bundle is not None:
            return await self._submit_bundled(request, Path(bundle), files, queue)
        body = encode(request) if isinstance(request, JobRequest) else msgspec.json.encode(request)
        try:
            reply = await self.bus.request("shoal.jobs.submit", body, ANSWER_SECONDS)
        except NoResponders:
            if not queue:
                raise
            return await self._queue(body)
        answer = msgspec.json.decode(reply, type=JobAnswer)
        if not answer.accepted or answer.job is None:
            raise Refused(answer.field or "$", answer.reason or "no reason given", answer.retry_after)
        return Accepted(job=answer.job)

    async def _submit_bundled(
        self, request: JobRequest | Mapping[str, Any], root: Path, files: Sequence[str], queue: bool
    ) -> Accepted:
        """Submit a job once its source is in the object store."""
        body: dict[str, Any] = msgspec.to_builtins(request)
        packed = await asyncio.to_thread(make_bundle, str(body.get("workload", "")), root, files, self.store)
        await self.bus.put_object(packed.name, packed.data)
        source = packed.source
        accepted = await self.submit(body | {"bundle": msgspec.to_builtins(source)}, queue=queue)
        sent = SentBundle(digest=source.digest, size=source.size, submitter=source.submitter, files=packed.files)
        return msgspec.structs.replace(accepted, bundle=sent)

    async def _queue(self, body: bytes) -> Accepted:
        try:
            request = decode_request(JobRequest, body)
        except DecodeError as error:
            raise Refused(error.field, error.why) from error
        job = request.id or "train-" + "".join(secrets.choice(ALPHABET) for _ in range(6))
        await self.publish(JobQueued(request=msgspec.structs.replace(request, id=job)))
        return Accepted(job=job, queued=True)

    async def publish(self, message: Message) -> None:
        """Publish a message under this client's name."""
        self._sequence += 1
        name = f"{self.bus.source}:{self._life}:{self._sequence}"
        await self.bus.publish(seal(message, id=name, cause="", at=time.time(), source=self.bus.source), dedup=name)

    async def cancel(self, job: str, reason: str = "cancelled by a user") -> None:
        """End a job before its time. Raises `Refused` where there is no such job or it has ended."""
        reply = await self.bus.request("shoal.jobs.cancel", encode(CancelRequest(job=job, reason=reason)), ANSWER_SECONDS)
        answer = msgspec.json.decode(reply, type=JobAnswer)
        if not answer.accepted:
            raise Refused(answer.field or "$", answer.reason or "no reason given", answer.retry_after)

    async def jobs(self) -> tuple[JobSummary, ...]:
        """All jobs that the desk knows, newest first. Raises `NoResponders` where there is no desk."""
        reply = await self.bus.request("shoal.jobs.list", encode(ListRequest()), ANSWER_SECONDS)
        return msgspec.json.decode(reply, type=JobList).jobs

    async def state(self, job: str) -> JobState | None:
        """Where a job stands, also without a desk."""
        states = [state async for state in self.bus.history([Interest(JobState, {"job": job})])]
        return states[-1] if states and isinstance(states[-1], JobState) else None

    async def history(self, *subjects: str) -> AsyncIterator[Message]:
        """What is stored on the subjects that match one of the filters (by default all), up to now, oldest first.

        Raises:
            NoSuchSubject: no message travels on such a subject.
        """
        by_stream: dict[Delivery, list[Message]] = {}
        interests = [i for i in interests_of(*subjects) if wire_of(i.kind).delivery is not Delivery.TELEMETRY]
        async for message in self.bus.history(interests):
            if wanted(message, subjects):
                by_stream.setdefault(wire_of(type(message)).delivery, []).append(message)
        # In time, but without disturbing a stream's own order where the clocks of two machines differ.
        for message in heapq.merge(*by_stream.values(), key=lambda message: message.at):
            yield message

    async def events(self, *subjects: str, past: bool = False) -> AsyncGenerator[Message, None]:
        """Messages on the subjects that match one of the filters (by default all), as they come.

        With `past`, what is stored first. The present state of jobs, nodes and the like (`Delivery.LAST_VALUE`) is part
        of the past: without it only what changes from now on is given. Who reads more slowly than they come misses
        telemetry, of which a `BusDisturbed` tells, but nothing that is stored.

        Raises:
            NoSuchSubject: no message travels on such a subject.
        """
        interests = interests_of(*subjects)
        inbox = EventInbox()

        def take(message: Message, receipt: Receipt | None) -> None:
            if wanted(message, subjects):
                inbox.put(message, receipt)
            elif receipt is not None:
                receipt.ack()

        # A subscription begins with the newest of each LAST_VALUE subject: known ones are left out.
        standing = [i for i in interests if wire_of(i.kind).delivery is Delivery.LAST_VALUE]
        known = set() if past else {_key(message) async for message in self.bus.history(standing)}
        subscription = await self.bus.subscribe(interests, take)
        try:
            if past:
                async for message in self.history(*subjects):
                    known.add(_key(message))
                    yield message
            while True:
                message = await inbox.get()
                if _key(message) not in known:
                    yield message
        finally:
            with contextlib.suppress(BusError):
                await subscription.stop()


def wanted(message: Message, subjects: Sequence[str]) -> bool:
    """Whether a message travels on a subject that one of the filters matches; all do if there are none."""
    return not subjects or any(matches(filter_, subject_of(message)) for filter_ in subjects)


def _key(message: Message) -> str | bytes:
    """What tells a message from others; those of foreign clients may have no id."""
    return message.id or encode(message)


async def connect(
    server: str | None = None, *, token: Secret = None, store: Path | None = None, name: str = "client"
) -> Client:
    """Connect to a fleet.

    Args:
        server: `nats://[TOKEN@]HOST:PORT`; by default `$SHOAL_SERVER`, else the server of `shoal up` in this directory.
        token: the server's token, if it isn't in the URL, or the file with a member's credentials.
        store: the directory of `shoal up`, by default `.shoal`; what is submitted is signed with the key in it.
        name: what this client calls itself.

    Raises:
        Unreachable: no server there, or it refused the token.
    """
    address = find_server(server, token=token, store=store)
    bus = await NatsBus.connect(address.url, source=name, token=address.token)
    await renew_if_due(bus, address.token)
    return Client(bus, address, store or STORE)


async def submit(
    request: JobRequest | Mapping[str, Any],
    server: str | None = None,
    *,
    bundle: Path | str | None = None,
    files: Sequence[str] = (),
) -> Accepted:
    """Submit one job and leave again. Raises as `connect` and `Client.submit`."""
    async with await connect(server) as client:
        return await client.submit(request, bundle=bundle, files=files)


async def events(subject: str = EVERYTHING, server: str | None = None, *, past: bool = False) -> AsyncIterator[Message]:
    """Messages on matching subjects, as they come, until the caller stops. Raises as `connect` and `Client.events`."""
    async with await connect(server) as client:
        async for message in client.events(subject, past=past):
            yield message


def interests_of(*subjects: str) -> list[Interest]:
    """The registered messages that NATS subject filters (by default `shoal.>`) may bring.

    Raises:
        NoSuchSubject: a filter brings none.
        BadIdentifier: it has a token that no name can be.
    """
    found: dict[type[Message], list[dict[str, str]]] = {}
    for subject in subjects or (EVERYTHING,):
        tokens = subject.split(".")
        brought = False
        for wire in registered():
            kind = wire.type
            if issubclass(kind, Message) and overlaps(tokens, wire.tokens):
                brought = True
                fixed = _fixed(tokens, wire.tokens)
                if fixed not in found.setdefault(kind, []):
                    found[kind].append(fixed)
        if not brought:
            raise NoSuchSubject(subject)
    return [Interest(kind, fixed) for kind, several in found.items() for fixed in _disjoint(several)]


def _disjoint(several: list[dict[str, str]]) -> list[dict[str, str]]:
    """Filters of one type that have no message in common: a stream's reader takes no others."""
    if all(fixed.keys() == several[0].keys() for fixed in several):
        return several
    return [dict(set.intersection(*(set(fixed.items()) for fixed in several)))]


def _fixed(tokens: Sequence[str], template: Sequence[str]) -> dict[str, str]:
    """The placeholders of a template for which a filter has a name."""
    return {
        part[1:-1]: token(given, part[1:-1])
        for part, given in zip(template, tokens, strict=False)
        if part.startswith("{") and given not in WILDCARDS
    }


class NoSuchSubject(ShoalError):
    """No message travels on such a subject. Attribute: `subject`."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"no message travels on {subject!r}: `shoal schema` lists the subjects; wildcards are * and >")
        self.subject = subject


def overlaps(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two subject filters, split into tokens, have a subject in common; `{placeholders}` are wildcards, too."""
    for mine, theirs in zip(one, other, strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs) and not theirs.startswith("{"):
            return False
    return len(one) == len(other)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject matches a filter."""
    return overlaps(pattern.split("."), subject.split("."))

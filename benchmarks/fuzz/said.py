"""Readers of what is said: messages, requests, answers, subjects."""

import asyncio
from collections.abc import Iterator, Sequence

import msgspec

import schemas.catalogue  # noqa: F401 - registers every type
from agents.job_desk.admission import objection
from benchmarks.fuzz.target import Target
from bus.credentials import member_of
from bus.nats_intake import Intake
from bus.nats_pull import coordinates
from bus.port import BusError
from bus.shaping.control import BadOrder, order_in, order_of
from bus.shaping.profiles import UnknownProfile
from bus.shaping.schedule import BadSchedule, schedule_in
from bus.tensor_frames import speaker_of
from runners.answering import Answering
from runners.client import NoSuchSubject, interests_of, matches
from runners.workload_source import WorkloadError, split_name
from schemas.emulation import LinkOrder
from schemas.errors import DecodeError
from schemas.examples import examples_of
from schemas.ids import BadIdentifier, is_older, sanitised, token
from schemas.jobs import JobRequest
from schemas.requests import Refusal, decode_request
from schemas.wire import Message, Request, encode, registered, subject_of, wire_for, wire_of

_MESSAGES = [wire for wire in registered() if issubclass(wire.type, Message)]
_REQUESTS = [wire.type for wire in registered() if issubclass(wire.type, Request)]
_INTAKE = Intake(lambda told: None)
_LISTENERS = [(wire, _INTAKE.telemetry(wire, lambda message, receipt: None)) for wire in _MESSAGES]


def _message(data: bytes) -> None:
    """Subject, line break, body. Whatever is taken must be what its own bytes are decoded to."""
    subject, _, body = data.partition(b"\n")
    name = subject.decode(errors="surrogateescape")
    taken = _INTAKE.decode(name, body)
    if taken is not None:
        wire = wire_of(type(taken))
        again = wire.decode_bytes(encode(taken))
        if subject_of(taken) != name or (again != taken and "NaN" not in repr(taken)):
            raise AssertionError(f"{taken!r} came as {again!r} on {name}")
    tokens = name.split(".")
    for kind, listener in _LISTENERS:
        if kind.matches(tokens):  # what a subscription to its subjects brings
            listener(name, body)


def _messages() -> list[bytes]:
    rows = []
    for wire in _MESSAGES:
        for body in examples_of(wire.type):
            message = wire.decode_bytes(msgspec.json.encode(body))
            rows.append(f"{subject_of(message)}\n".encode() + encode(message))
    return rows


def _request(data: bytes) -> None:
    """First byte: which kind of request."""
    kind = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
    request = decode_request(kind, data[1:])
    if isinstance(request, JobRequest):
        objection(request)


class _Answered:
    """As an agent's host takes requests in: an answer says what is wrong, and nothing is raised."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._answering = Answering(_refusal, "fuzz", self._asked, lambda waiting, stores: None)

    def _asked(self, request: Request) -> str:
        self._loop.call_soon(self._answering.answer, "1", b"{}")
        return "1"

    def read(self, data: bytes) -> None:
        kind = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
        msgspec.json.decode(self._loop.run_until_complete(self._respond(kind, data[1:])))

    async def _respond(self, kind: type[Request], body: bytes) -> bytes:
        return await self._answering.responder(kind)(body)


def _refusal(field: str, why: str) -> Refusal:
    return Refusal(accepted=False, field=field, reason=why)


def _requests() -> list[bytes]:
    return [
        bytes([number]) + msgspec.json.encode(body) for number, kind in enumerate(_REQUESTS) for body in examples_of(kind)
    ]


def _subject(data: bytes) -> None:
    """Everything that takes a subject, or a name that becomes a part of one, apart."""
    text = data.decode(errors="surrogateescape")
    wire_for(text)
    member_of(text)
    speaker_of(text)
    matches(text, "shoal.jobs.train-7f3k2q.state")
    sanitised(text)
    is_older(text, "17")
    for read in (interests_of, token, split_name):
        try:
            read(text)
        except (NoSuchSubject, BadIdentifier, WorkloadError):
            continue


def _subjects() -> list[bytes]:
    filters = [b"shoal.>", b"shoal.jobs.*.state", b"_INBOX.laptop.X1.Y2", b"examples.digits:workload", b"laptop"]
    return [row.partition(b"\n")[0] for row in _messages()] + filters


def _coordinates(data: bytes) -> None:
    coordinates(data.decode(errors="surrogateescape"))


def _link_order(data: bytes) -> None:
    """As a line of an emulator's input, as a scheduled one, and from a message."""
    for read in (order_in, schedule_in, _told):
        try:
            read(data)
        except (BadOrder, BadSchedule, UnknownProfile) as error:
            if not str(error):
                raise AssertionError("an error without words") from None


def _told(data: bytes) -> None:
    try:
        message = wire_of(LinkOrder).decode_bytes(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    order_of(message)


def _orders() -> list[bytes]:
    plain = [b'{"do":"profile","name":"poor"}', b'{"do":"spike","ms":300,"seconds":5}', b'{"do":"disconnect","seconds":3}']
    scheduled = [b'[{"after_seconds": 10, "order": ' + order + b"}]" for order in plain]
    return [*plain, *scheduled, *(msgspec.json.encode(body) for body in examples_of(LinkOrder))]


def targets() -> Iterator[Target]:
    """The readers."""
    acks: Sequence[bytes] = (
        b"$JS.ACK.SHOAL_RECORD.desk.1.20.31.1700000000000000000.5",
        b"$JS.ACK.hub.ACCHASH.SHOAL_RECORD.desk.1.20.31.1700000000000000000.5.rnd",
    )
    yield Target("messages", _message, (), _messages)
    yield Target("requests", _request, (DecodeError,), _requests)
    yield Target("requests, answered", _Answered().read, (), _requests)
    yield Target("subjects and names", _subject, (), _subjects)
    yield Target("places in a stream", _coordinates, (BusError,), lambda: acks)
    yield Target("link orders", _link_order, (), _orders)

"""The registry: which type travels on which subject, with which promise, and how it becomes bytes."""

import enum
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import msgspec

from schemas.errors import FAULTS, DecodeError, SchemaError
from schemas.ids import EventId


class Delivery(enum.Enum):
    """What a message's carrier promises."""

    TELEMETRY = "telemetry"
    """Core NATS, at most once: the next one makes a lost one good."""
    RECORD = "record"
    """JetStream, at least once: a fact that must arrive; receivers drop duplicates by `id`."""
    LAST_VALUE = "last_value"
    """JetStream, the newest per subject is kept: whoever starts late knows the present. Carries a version."""
    AUDIT = "audit"
    """JetStream, at least once, in a stream that nobody may purge or delete from: what administrators did."""
    REQUEST = "request"
    """Request and reply, in no stream."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope that every event carries in its body. The host fills it in when it publishes (`seal`)."""

    id: EventId = ""
    """`agent:incarnation:sequence`, unique; receivers deduplicate by it."""
    cause: EventId = ""
    """The id of the event that led to this one; empty where nothing did (a clock, a person)."""
    at: float = 0.0
    """Seconds since the epoch by the sender's clock; for people, never for deadlines between machines."""
    source: str = ""
    """Who speaks: an agent's name, `node/<node>`, `trainer/<job>/<node>`, `reducer/<job>/<node>`, or a client's own."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client asks: no envelope, unknown fields refused."""

    stores: ClassVar[bool] = True
    """Whether it leads to anything that must be stored."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the desk answers."""


M = TypeVar("M", bound=msgspec.Struct)
_PLACEHOLDER = re.compile(r"^\{([a-z_]+)\}$")
_LITERAL = re.compile(r"^[a-z0-9_-]+$")
_ENCODE = msgspec.json.Encoder().encode
_PUT = msgspec.structs.force_setattr


class Wire:
    """How one message type travels."""

    def __init__(self, kind: type[msgspec.Struct], template: str, delivery: Delivery, answer: type | None) -> None:
        self.type = kind
        self.template = template
        self.delivery = delivery
        self.answer = answer
        self.tokens = tuple(template.split("."))
        self.fields = tuple(m[1] for t in self.tokens if (m := _PLACEHOLDER.match(t)))
        known = kind.__struct_fields__
        for part in self.tokens:
            field = _PLACEHOLDER.match(part)
            if field and field[1] not in known:
                raise SchemaError(f"{kind.__name__}: its subject {template!r} names {field[1]!r}, which is no field of it")
            if not field and not _LITERAL.match(part):
                raise SchemaError(f"{kind.__name__}: {part!r} in {template!r} can't be a token of a subject")
        self.pattern = self.filter()
        self.subject_of = _formatter(template)
        self.decode_bytes: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode

    def filter(self, **fixed: object) -> str:
        """The NATS subject filter for this type; placeholders not in `fixed` become `*`."""
        unknown = set(fixed) - set(self.fields)
        if unknown:
            raise SchemaError(f"{self.type.__name__}: {self.template!r} has no placeholder {sorted(unknown)}")
        tokens = []
        for part in self.tokens:
            field = _PLACEHOLDER.match(part)
            tokens.append(str(fixed.get(field[1], "*")) if field else part)
        return ".".join(tokens)

    def matches(self, tokens: list[str]) -> bool:
        """Whether a subject, split into tokens, is one of this type's."""
        return len(tokens) == len(self.tokens) and all(
            want == have or want[0] == "{" for want, have in zip(self.tokens, tokens, strict=True)
        )


_BY_TYPE: dict[type, Wire] = {}
_BY_PATTERN: dict[str, Wire] = {}


def on_wire(template: str, delivery: Delivery, *, answer: type | None = None) -> Callable[[type[M]], type[M]]:
    """Class decorator: registers a message type. Raises `SchemaError` at import for a bad or taken subject."""

    def register(kind: type[M]) -> type[M]:
        wire = Wire(kind, template, delivery, answer)
        taken = _BY_PATTERN.get(wire.pattern)
        if taken is not None:
            raise SchemaError(f"{kind.__name__}: {template!r} is already the subject of {taken.type.__name__}")
        _BY_TYPE[kind] = wire
        _BY_PATTERN[wire.pattern] = wire
        return kind

    return register


def wire_of(kind: type) -> Wire:
    """The registration of a type; `SchemaError` where it has none."""
    try:
        return _BY_TYPE[kind]
    except KeyError:
        raise SchemaError(f"{kind.__name__} is not registered: decorate it with @on_wire") from None


def registered() -> Iterator[Wire]:
    """All registrations, in order of declaration (import `schemas.catalogue` first to have them all)."""
    return iter(tuple(_BY_TYPE.values()))


@lru_cache(maxsize=16384)
def wire_for(subject: str) -> Wire | None:
    """The registration whose subject this is, or None. Literal tokens win over placeholders."""
    exact = _BY_PATTERN.get(subject)
    if exact is not None:
        return exact
    tokens = subject.split(".")
    found = [wire for wire in _BY_TYPE.values() if wire.matches(tokens)]
    return min(found, key=lambda wire: len(wire.fields), default=None)


def subject_of(message: msgspec.Struct) -> str:
    """The subject that this message is published on."""
    return wire_of(type(message)).subject_of(message)


def encode(message: msgspec.Struct) -> bytes:
    """The message as JSON."""
    return _ENCODE(message)


def decode(kind: type[M], data: bytes) -> M:
    """The message in `data`.

    Raises:
        DecodeError: with the JSON path of the field at fault.
    """
    try:
        message: M = wire_of(kind).decode_bytes(data)
    except FAULTS as error:
        raise DecodeError(*fault(error)) from error
    return message


def fault(error: Exception) -> tuple[str, str]:
    """(field path, reason) of a msgspec error: `Expected ... - at `$.rounds`` becomes `("$.rounds", "Expected ...")`."""
    text = str(error)
    why, mark, path = text.rpartition(" - at `")
    if not mark:
        return "$", text
    return path.rstrip("`"), why


def seal(message: Message, *, id: str, cause: str, at: float, source: str) -> Message:
    """Fill in the envelope of a message that was just made, in place: a copy would cost more than the encoding.

    A message is made by one effect and sealed once, by the host that carries the effect out.
    """
    _PUT(message, "id", id)
    _PUT(message, "cause", cause)
    _PUT(message, "at", at)
    _PUT(message, "source", source)
    return message


def _formatter(template: str) -> Callable[[msgspec.Struct], str]:
    """A function from message to subject; one or two placeholders, the usual cases, without a loop: it runs per event."""
    parts = re.split(r"\{([a-z_]+)\}", template)
    if len(parts) == 1:
        return lambda message: template
    if len(parts) == 3:
        head, field, tail = parts
        return lambda message: f"{head}{getattr(message, field)}{tail}"
    if len(parts) == 5:
        head, first, middle, second, tail = parts
        return lambda message: f"{head}{getattr(message, first)}{middle}{getattr(message, second)}{tail}"
    pieces = [(parts[i], parts[i + 1]) for i in range(0, len(parts) - 1, 2)]
    last = parts[-1]
    return lambda message: "".join([f"{text}{getattr(message, field)}" for text, field in pieces]) + last

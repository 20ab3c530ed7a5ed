"""Decoding on delivery, once for all receivers of a message where no receiver could tell.

A message whose type has nothing mutable in it is the same to whoever holds it, so its receivers share one object while
it is among the last decoded. Types with a dict or a list somewhere are decoded anew for each receiver, so that one that
changes what it was given doesn't change what others get.
"""

from typing import Any

import msgspec
from msgspec import inspect

from schemas.wire import Message, Wire

# Messages remembered: more than are on their way to somebody at once; about 2 MB.
REMEMBERED = 4096
_PLAIN = (
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.EnumType,
    inspect.LiteralType,
    inspect.BytesType,
)


class Foreign(msgspec.ValidationError):
    """A sound message on a subject that isn't its own."""


class SharingDecoder:
    """Decodes messages that were published on a subject."""

    def __init__(self) -> None:
        self._shareable: dict[Wire, bool] = {}
        self.known: dict[bytes, Message] = {}
        """Look here first."""

    def decode(self, wire: Wire, subject: str, data: bytes) -> Message:
        """The message in `data`, which is none of the known.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: the bytes are no such message.
            Foreign: its body belongs on another subject.
        """
        message: Message = wire.decode_bytes(data)
        if wire.subject_of(message) != subject:
            raise Foreign(subject)
        shareable = self._shareable.get(wire)
        if shareable is None:
            shareable = self._shareable[wire] = _immutable(inspect.type_info(wire.type))
        if shareable:
            known = self.known
            if len(known) >= REMEMBERED:
                known.clear()
            known[data] = message
        return message


def _immutable(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.StructType):
        config: Any = kind.cls.__struct_config__
        return bool(config.frozen) and all(_immutable(each.type) for each in kind.fields)
    if isinstance(kind, inspect.VarTupleType):
        return _immutable(kind.item_type)
    if isinstance(kind, inspect.TupleType):
        return all(map(_immutable, kind.item_types))
    if isinstance(kind, inspect.UnionType):
        return all(map(_immutable, kind.types))
    if isinstance(kind, inspect.Metadata):
        return _immutable(kind.type)
    return isinstance(kind, _PLAIN)

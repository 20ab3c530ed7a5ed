"""Decoding on delivery, once for all receivers of a message where no receiver could tell.

A message whose type has nothing mutable in it is the same to whoever holds it, so its receivers share one object while
it is among the last decoded. Where the message itself has dicts or lists, and these nothing mutable, each receiver gets a
copy with dicts and lists of its own, so that one that changes what it was given doesn't change what others get. Other types
are decoded anew for each.
"""

from copy import copy
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
        self._own: dict[Wire, tuple[str, ...] | None] = {}
        self._models: dict[bytes, Message] = {}
        self.known: dict[bytes, Message] = {}
        """Look here first."""

    def decode(self, wire: Wire, subject: str, data: bytes) -> Message:
        """The message in `data`, which is none of the known.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: the bytes are no such message.
            Foreign: its body belongs on another subject.
        """
        model = self._models.get(data)
        if model is not None:
            return _copied(model, self._own[wire] or ())
        message: Message = wire.decode_bytes(data)
        if wire.subject_of(message) != subject:
            raise Foreign(subject)
        if wire not in self._own:
            self._own[wire] = _each_ones_own(inspect.type_info(wire.type))
        own = self._own[wire]
        if own == ():
            _remember(self.known, data, message)
        elif own is not None:
            _remember(self._models, data, _copied(message, own))
        return message


def _remember(table: dict[bytes, Message], data: bytes, message: Message) -> None:
    if len(table) >= REMEMBERED:
        table.clear()
    table[data] = message


def _copied(message: Message, own: tuple[str, ...]) -> Message:
    made = copy(message)
    for name in own:
        msgspec.structs.force_setattr(made, name, copy(getattr(message, name)))
    return made


def _each_ones_own(kind: inspect.Type) -> tuple[str, ...] | None:
    """The fields of a message that each receiver needs a copy of; None where such copies wouldn't be enough."""
    fields = [each for each in kind.fields if not _immutable(each.type)] if isinstance(kind, inspect.StructType) else []
    if isinstance(kind, inspect.StructType) and kind.cls.__struct_config__.frozen and all(map(_shallow, fields)):
        return tuple(each.name for each in fields)
    return None


def _shallow(field: inspect.Field) -> bool:
    kind = field.type
    if isinstance(kind, inspect.DictType):
        return _immutable(kind.key_type) and _immutable(kind.value_type)
    return isinstance(kind, inspect.ListType) and _immutable(kind.item_type)


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

"""A core's inputs as bytes and back: what a journal keeps, and what a snapshot of timers is made of."""

from collections.abc import Iterable
from typing import Any

import msgspec

from agents.inputs import Asked
from schemas.errors import ShoalError
from schemas.wire import Request

_ENCODE = msgspec.msgpack.Encoder().encode


class AmbiguousInput(ShoalError):
    """Two kinds of input of one core have the same name, so that a journal couldn't tell them apart."""

    def __init__(self, name: str) -> None:
        super().__init__(f"two kinds of input are called {name}: rename one of them")
        self.name = name


class InputCodec:
    """Turns the inputs of one core into (name of the kind, bytes) and back."""

    def __init__(self, kinds: Iterable[type]) -> None:
        """`kinds`: what the core has handlers for. Raises `AmbiguousInput` where two of them share a name."""
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        for kind in kinds:
            if kind.__name__ in self._decoders:
                raise AmbiguousInput(kind.__name__)
            self._decoders[kind.__name__] = msgspec.msgpack.Decoder(kind)

    def pack(self, event: msgspec.Struct) -> tuple[str, bytes]:
        """The kind's name and the bytes of an input."""
        if isinstance(event, Asked):
            return type(event.request).__name__, _ENCODE((event.reply_to, event.at, event.request))
        return type(event).__name__, _ENCODE(event)

    def unpack(self, name: str, body: bytes) -> msgspec.Struct | None:
        """The input again; None where this version of the core no longer has a handler for the kind.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: the kind has changed since the bytes were written, or
                they are damaged (`schemas.errors.FAULTS`).
        """
        decoder = self._decoders.get(name)
        if decoder is None:
            return None
        if isinstance(decoder.type, type) and issubclass(decoder.type, Request):
            reply_to, at, request = msgspec.msgpack.decode(body, type=tuple[str, float, decoder.type])  # type: ignore[name-defined]
            return Asked(reply_to=reply_to, at=at, request=request)
        event: msgspec.Struct = decoder.decode(body)
        return event

"""The root of Shoal's errors. Every error carries its data as attributes and says what to do about it."""

from typing import Final

import msgspec

FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises for bytes that are not what they should be: no such value, no text, nested too deep."""


class ShoalError(Exception):
    """Anything that Shoal raises on purpose. `str(error)` is one line for a user: what happened, and the mend."""


class SchemaError(ShoalError):
    """A message type was declared wrongly (unknown placeholder, duplicate subject); raised at import."""


class DecodeError(ShoalError):
    """Bytes that are not the message they should be.

    Attributes:
        field: JSON path of the field at fault (`$.rounds`), `$` where the bytes as a whole don't decode.
        why: what is wrong with it, in words.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why

"""What is fuzzed: a reader of bytes, valid inputs for it, and the errors that it may answer others with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 256 * 1024
"""Bytes of an input at most: a chunk of a tensor, four times a request."""

FLAT: Final = 8 * 1024 * 1024
"""Bytes that any reader may take for any input: buffers of fixed size, a stack that is deep for a moment."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: for tables.
        read: takes an input; raises one of `errors` or nothing. What else it raises is a finding.
        errors: documented; each must have a message.
        corpus: makes valid inputs.
        memory: bytes that it may take for each byte of input, over `flat`.
        flat: bytes that it may take for any input.
        share: of the inputs, against others: less for what takes long.
    """

    name: str
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    corpus: Callable[[], Sequence[bytes]]
    memory: int = 64
    flat: int = FLAT
    share: float = 1.0

"""How a tensor's bytes travel: cut into chunks, each with a small header that says what it is a part of."""

import hashlib
import struct
import zlib
from dataclasses import dataclass

from schemas.training import MOST_STREAMS

CHUNK = 256 * 1024
"""Bytes of data a message at most. A quarter of the server's limit; on a link of 0.3 Mbit/s, the worst there is, one takes
7 s, and twice as much would make a stall hard to tell from slowness. On loopback 512 KiB is no faster."""

SMALLEST_CHUNK = 16 * 1024
"""Bytes of data a message at least, but for the last: with less, headers and subjects would be a per cent of it."""

SHARES = 64
"""Chunks that a tensor is cut into at least, where they don't get too small, so that a receiver's connections have like
shares of it: with 32 connections two each."""

SLOTS = MOST_STREAMS
"""That chunks are dealt out to in turn, by a word of their subject, each of which one of a receiver's connections listens
to: as many as it may have connections. A queue group would deal them out at random: of 64 chunks the unluckiest of eight
connections then has 13 rather than 8, and what a link with losses carries is what its connections carry each."""

WINDOW = 16 * 1024 * 1024
"""Bytes that may be under way to one receiver: with their defaults the server and nats-py hold so much and drop none."""

_HEADER = struct.Struct(">4sQI8s")
HEADER_SIZE = _HEADER.size
_MAGIC = b"ShT1"
_LONGEST_NUMBER = 20  # digits of 2^64: no tensor is as long


Data = bytes | memoryview
"""A tensor's bytes: made here, or looked at where they were received."""


@dataclass(frozen=True)
class Held:
    """A tensor that this node keeps for whoever asks.

    Attributes:
        kind: `delta`, `average`, `anchor`.
        name: unique within the kind at this node.
        size: bytes.
        digest: SHA-256 of the bytes, in hexadecimal.
    """

    kind: str
    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Header:
    """What a chunk says of itself.

    Attributes:
        total: bytes of the whole tensor.
        check: CRC-32 of the chunk. Of what the standard library has it is the fastest that finds any burst of errors of
            up to 32 bits (1.8 GB/s here; Adler-32 is no faster and weak). The receiver looks at it only where the SHA-256
            of the whole is wrong, to learn which chunk to ask for again; so it costs nothing where all is well.
        content: the first eight bytes of the whole's SHA-256, which keep apart two tensors that went by one name.
    """

    total: int
    check: int
    content: bytes


class Kept:
    """A tensor's bytes, ready to be sent. Making one hashes them: about a second for a GB, on the calling thread."""

    def __init__(self, kind: str, name: str, data: Data) -> None:
        self.data = data
        self._view = memoryview(data)
        self.held = Held(kind, name, len(data), hashlib.sha256(data).hexdigest())
        self.chunk = chunk_of(len(data))
        self.count = chunks_of(len(data))
        self._content = content_of(self.held.digest)
        self._checks = [zlib.crc32(self._part(index)) for index in range(self.count)]

    def frame(self, index: int) -> tuple[bytes, memoryview]:
        """The payload of one chunk's message, in two parts: header and data."""
        header = _HEADER.pack(_MAGIC, self.held.size, self._checks[index], self._content)
        return header, self._part(index)

    def _part(self, index: int) -> memoryview:
        return self._view[index * self.chunk : (index + 1) * self.chunk]


def content_of(digest: str) -> bytes:
    """What stands for a SHA-256 (hexadecimal) in a header."""
    return bytes.fromhex(digest[:16])


def chunk_of(size: int) -> int:
    """Bytes of each chunk but the last of a tensor of `size` bytes: a power of two, the same at both ends."""
    chunk = CHUNK
    while chunk > SMALLEST_CHUNK and chunk * SHARES > size:
        chunk //= 2
    return chunk


def chunks_of(size: int) -> int:
    """How many chunks `size` bytes make."""
    return -(-size // chunk_of(size))


def slot_of(index: int) -> int:
    """The slot of a stream's chunk with this index.

    What is asked for is dealt out anew, as it is sent, so that what one connection didn't bring comes by others.
    """
    return index % SLOTS


def speaker_of(subject: str) -> str:
    """Who speaks of another's tensor: the last word of such a subject, to which the server holds it."""
    return subject.rpartition(".")[2]


def number_in(word: str) -> int:
    """The number that a word of a subject is; -1 where it is none, as in digits of another script or hundreds of them."""
    return int(word) if word.isascii() and word.isdigit() and len(word) <= _LONGEST_NUMBER else -1


def header_of(payload: memoryview) -> Header | None:
    """The header of a chunk's message; None for bytes that are no chunk."""
    if len(payload) < HEADER_SIZE:
        return None
    magic, total, check, content = _HEADER.unpack_from(payload)
    return Header(total, check, content) if magic == _MAGIC else None

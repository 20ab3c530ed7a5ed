"""Differences as bytes: float32, float16, int8 and int4 in blocks, and the largest elements alone.

A payload is a 16-byte header and the numbers, little-endian (as is every platform that torch is built for):

    magic "SHLT" | codec u8 | version u8 | block u16 | count u64      then
    float32: count f32        float16: count f16
    int8:    ceil(count / block) f32 scales, count i8
    int4:    ceil(count / block) f32 scales, ceil(count / 2) bytes of two values
    topk:    statistics u64; the chosen elements of the first count - statistics, then the last `statistics` elements,
             each as in int8 (scales of both, quanta of both); places of the chosen ones in their chunks u8

`decode` uses separate elementwise operations alone (a conversion, a multiplication), so that it gives the same bits
whatever vector instructions a machine has: everyone applies the decoded bytes, and anchors are compared bit by bit.
`encode` runs on one machine only and may reduce.
"""

import struct
from collections.abc import Iterator
from typing import Final, get_args

import torch
from torch import Tensor

from runners.jobs.codec_blocks import INT4_BLOCK, INT8_BLOCK, int4_size, int8_size
from runners.jobs.codec_bodies import Body, Bytes, Floats, Int4, Int8, TopK
from runners.jobs.codec_numbers import RESEND, CodecError
from runners.jobs.codec_topk import CHUNK, kept_of
from runners.jobs.in_place import Room
from runners.jobs.vectors import chunks, whole
from schemas.jobs import Encoding

__all__ = ["ENCODINGS", "CodecError", "Decoded", "Writer", "decode", "encode", "encoded_size", "inspect_payload"]

ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
"""In the order of their numbers in the header."""

_HEADER: Final = struct.Struct("<4sBBHQ")
_TOPK_HEADER: Final = struct.Struct("<4sBBHQQ")
_MAGIC: Final = b"SHLT"
_VERSION: Final = 1
_BLOCKS: Final[dict[str, int]] = {"int8": INT8_BLOCK, "int4": INT4_BLOCK, "topk": CHUNK}


def encoded_size(count: int, encoding: Encoding, statistics: int = 0) -> int:
    """Bytes of the payload that `count` elements make, the last `statistics` of which are such."""
    if encoding == "topk":
        kept = kept_of(count - statistics)
        return _TOPK_HEADER.size + int8_size(kept) + int8_size(statistics) + kept
    body = {"float32": 4 * count, "float16": 2 * count, "int8": int8_size(count), "int4": int4_size(count)}
    return _HEADER.size + body[encoding]


def encode(flat: Tensor, encoding: Encoding, statistics: int = 0) -> bytes:
    """The payload of a flat float32 CPU tensor of shape (count,).

    float16 rounds to nearest and clamps at its largest number; int8 rounds to the nearest of 255 multiples of
    (largest magnitude of the block) / 127, so that an element is off by half of that at most; int4 likewise, of 15
    multiples of a seventh. topk gives the largest 8 magnitudes of every 256 elements in int8, and zeros for the others.

    The last `statistics` elements are no sums of steps but each round's whole distance to where they should be (running
    means and variances). One that waited for n rounds would be owed n times over, so topk sends them all, in int8.

    Raises:
        CodecError: it is not a flat float32 CPU tensor, holds NaN, infinities or magnitudes from 2^126, or the
            encoding is unknown.
    """
    if flat.dim() != 1 or flat.dtype != torch.float32 or flat.device.type != "cpu":
        shape = tuple(flat.shape)
        raise CodecError(f"a {flat.dtype} tensor of shape {shape} on {flat.device}", "flatten it to float32 on the CPU")
    writer, flat = Writer(flat.numel(), encoding, statistics), flat.detach().contiguous()
    for place in writer.chunks():
        writer.put(place, flat[place])
    return writer.payload()


def decode(payload: Bytes) -> Tensor:
    """The flat float32 tensor that a payload holds: new memory, the same bits on every machine.

    Raises:
        CodecError: unknown magic, version or codec, a size that doesn't fit the count, a number that is not finite, or
            contents that `encode` never makes (scales, padding, places).
    """
    return whole(Decoded(payload))


class Writer:
    """A payload that is made a chunk at a time, in its own memory, in any order."""

    def __init__(self, count: int, encoding: Encoding, statistics: int = 0) -> None:
        """Raises a CodecError for an unknown encoding; see `encode`."""
        if encoding not in ENCODINGS:
            raise CodecError(f"no encoding {encoding!r}", f"use one of {', '.join(ENCODINGS)}")
        self._body = _body_of(count, encoding, statistics)
        head = (_MAGIC, ENCODINGS.index(encoding), _VERSION, _BLOCKS.get(encoding, 0), count)
        header = _TOPK_HEADER.pack(*head, statistics) if encoding == "topk" else _HEADER.pack(*head)
        self._room = Room(max(len(header), encoded_size(count, encoding, statistics)))
        self._memory = self._room.memory
        self._memory[: len(header)] = header

    def chunks(self) -> Iterator[slice]:
        """The places to be written."""
        start = 0
        for stop in self._body.sections:
            yield from chunks(stop, start)
            start = stop

    def put(self, place: slice, numbers: Tensor) -> None:
        """Encodes one of the chunks. Raises a CodecError for NaN, infinities or magnitudes from 2^126."""
        self._body.put(self._memory, place.start, numbers)

    def decoded(self, place: slice) -> Tensor:
        """What receivers will make of a chunk that was put."""
        return self._body.get(self._memory, place.start, place.stop)

    def payload(self) -> bytes:
        """All of it; nothing can be put any more."""
        return self._room.taken()


class Decoded:
    """The vector that a payload holds, decoded where it is looked at: it takes no more memory than the payload."""

    def __init__(self, payload: Bytes) -> None:
        """Raises a CodecError as `inspect_payload`; looking at the numbers raises the rest of what `decode` does."""
        encoding, self._count, statistics = _inspect(payload)
        self._memory = memoryview(payload)
        self._body = _body_of(self._count, encoding, statistics)
        self.lengths: tuple[float, ...] | None = None
        """L2 norms of its parts, once somebody has measured them: the bytes don't change."""

    def numel(self) -> int:
        """Elements."""
        return self._count

    def check(self) -> None:
        """Looks at all numbers. Raises a CodecError as `decode`."""
        for place in chunks(self._count):
            self[place]

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        parts, first = [], 0
        for last in self._body.sections:
            start, stop = max(place.start, first), min(place.stop, last)
            if start < stop:
                begin = start - (start - first) % self._body.step
                end = min(last, stop + (first - stop) % self._body.step)
                parts.append(self._body.get(self._memory, begin, end)[start - begin : stop - begin])
            first = last
        return parts[0] if len(parts) == 1 else torch.cat(parts or [torch.empty(0)])


def _body_of(count: int, encoding: Encoding, statistics: int) -> Body:
    at = _HEADER.size
    if encoding == "int8":
        return Int8(at, at + int8_size(count) - count, count)
    if encoding == "int4":
        return Int4(at, count)
    if encoding == "topk":
        return TopK(_TOPK_HEADER.size, count, statistics)
    return Floats(at, count, torch.float32 if encoding == "float32" else torch.float16)


def inspect_payload(payload: Bytes) -> tuple[Encoding, int]:
    """Encoding and element count of a payload, its header and its size checked and nothing decoded.

    Raises:
        CodecError: as `decode`, but for the numbers themselves.
    """
    encoding, count, _ = _inspect(payload)
    return encoding, count


def _inspect(payload: Bytes) -> tuple[Encoding, int, int]:
    if len(payload) < _HEADER.size:
        raise CodecError(f"{len(payload)} bytes are too few for a tensor", RESEND)
    magic, codec, version, block, count = _HEADER.unpack_from(payload)
    if magic != _MAGIC or version != _VERSION:
        raise CodecError(f"bytes that begin with {bytes(magic)!r}, version {version}, are no tensor we know", RESEND)
    if codec >= len(ENCODINGS):
        raise CodecError(f"unknown codec {codec}", RESEND)
    encoding = ENCODINGS[codec]
    if block != _BLOCKS.get(encoding, 0):
        raise CodecError(f"blocks of {block} elements for {encoding}", RESEND)
    statistics = 0
    if encoding == "topk":
        if len(payload) < _TOPK_HEADER.size:
            raise CodecError(f"{len(payload)} bytes are too few for the largest elements of a tensor", RESEND)
        statistics = _TOPK_HEADER.unpack_from(payload)[-1]
        if statistics > count:
            raise CodecError(f"{statistics} statistics among {count} elements", RESEND)
    if len(payload) != encoded_size(count, encoding, statistics):
        found, wanted = len(payload), encoded_size(count, encoding, statistics)
        raise CodecError(f"{found} bytes where {count} elements as {encoding} take {wanted}", RESEND)
    return encoding, count, statistics

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
from collections.abc import Iterable
from typing import Final, get_args

import torch
from torch import Tensor

from runners.jobs.codec_blocks import (
    INT4_BLOCK,
    INT8_BLOCK,
    decode_int4,
    decode_int8,
    encode_int4,
    encode_int8,
    int4_scales,
    int4_size,
    int8_scales,
    int8_size,
)
from runners.jobs.codec_numbers import RESEND, CodecError, raw, refuse_wild, view
from runners.jobs.codec_topk import CHUNK, choose, kept_of, spread
from schemas.jobs import Encoding

__all__ = ["ENCODINGS", "CodecError", "decode", "encode", "encoded_size", "inspect_payload"]

ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
"""In the order of their numbers in the header."""

_HEADER: Final = struct.Struct("<4sBBHQ")
_TOPK_HEADER: Final = struct.Struct("<4sBBHQQ")
_MAGIC: Final = b"SHLT"
_VERSION: Final = 1
_BLOCKS: Final[dict[str, int]] = {"int8": INT8_BLOCK, "int4": INT4_BLOCK, "topk": CHUNK}

_FLOAT16_MAX: Final = 65_504.0


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
    if encoding not in ENCODINGS:
        raise CodecError(f"no encoding {encoding!r}", f"use one of {', '.join(ENCODINGS)}")
    if flat.dim() != 1 or flat.dtype != torch.float32 or flat.device.type != "cpu":
        shape = tuple(flat.shape)
        raise CodecError(f"a {flat.dtype} tensor of shape {shape} on {flat.device}", "flatten it to float32 on the CPU")
    head = (_MAGIC, ENCODINGS.index(encoding), _VERSION, _BLOCKS.get(encoding, 0), flat.numel())
    header = _TOPK_HEADER.pack(*head, statistics) if encoding == "topk" else _HEADER.pack(*head)
    body = _body(flat.detach().contiguous(), encoding, statistics)
    return b"".join((header, *(raw(part) for part in body if part.numel())))


def _body(flat: Tensor, encoding: Encoding, statistics: int) -> Iterable[Tensor]:
    if encoding == "int8":
        return encode_int8(flat)
    if encoding == "int4":
        return encode_int4(flat)
    if encoding == "topk":
        places, values = choose(flat[: flat.numel() - statistics])
        chosen, whole = encode_int8(values), encode_int8(flat[flat.numel() - statistics :])
        return chosen[0], whole[0], chosen[1], whole[1], places
    refuse_wild(flat)
    return (flat if encoding == "float32" else flat.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16),)


def decode(payload: bytes | bytearray | memoryview) -> Tensor:
    """The flat float32 tensor that a payload holds: new memory, the same bits on every machine.

    Raises:
        CodecError: unknown magic, version or codec, a size that doesn't fit the count, a number that is not finite, or
            contents that `encode` never makes (scales, padding, places).
    """
    encoding, count = inspect_payload(payload)
    if not count:
        return torch.empty(0)
    buffer = bytearray(payload)
    after, at = _HEADER.size, _HEADER.size
    if encoding == "int8":
        after += 4 * int8_scales(count)
        return decode_int8(view(buffer, torch.float32, int8_scales(count), at), view(buffer, torch.int8, count, after))
    if encoding == "int4":
        after += 4 * int4_scales(count)
        pairs = view(buffer, torch.uint8, -(-count // 2), after)
        return decode_int4(view(buffer, torch.float32, int4_scales(count), at), pairs, count)
    if encoding == "topk":
        return _decode_topk(buffer, count)
    dtype = torch.float32 if encoding == "float32" else torch.float16
    flat = view(buffer, dtype, count, at).to(torch.float32)
    refuse_wild(flat)
    return flat


def _decode_topk(buffer: bytearray, count: int) -> Tensor:
    statistics: int = _TOPK_HEADER.unpack_from(buffer)[-1]
    kept = kept_of(count - statistics)
    at, quanta = _TOPK_HEADER.size, _TOPK_HEADER.size + 4 * (int8_scales(kept) + int8_scales(statistics))
    scales = view(buffer, torch.float32, int8_scales(kept), at)
    values = decode_int8(scales, view(buffer, torch.int8, kept, quanta))
    places = view(buffer, torch.uint8, kept, quanta + kept + statistics)
    chosen = spread(places, values, count - statistics)
    if not statistics:
        return chosen
    scales = view(buffer, torch.float32, int8_scales(statistics), at + 4 * int8_scales(kept))
    return torch.cat((chosen, decode_int8(scales, view(buffer, torch.int8, statistics, quanta + kept))))


def inspect_payload(payload: bytes | bytearray | memoryview) -> tuple[Encoding, int]:
    """Encoding and element count of a payload, its header and its size checked and nothing decoded.

    Raises:
        CodecError: as `decode`, but for the numbers themselves.
    """
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
    return encoding, count

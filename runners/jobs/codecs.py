"""Differences as bytes: float32, float16, and int8 in blocks, with error feedback.

A payload is a 16-byte header and the numbers, little-endian (as is every platform that torch is built for):

    magic "SHLT" | codec u8 | version u8 | block u16 | count u64      then
    float32: count f32        float16: count f16        int8: ceil(count / block) f32 scales, count i8

`decode` uses separate elementwise operations alone (a conversion, a multiplication), so that it gives the same bits
whatever vector instructions a machine has: everyone applies the decoded bytes, and anchors are compared bit by bit.
`encode` runs on one machine only and may reduce.
"""

import struct
from typing import Final, get_args

import torch
from torch import Tensor

from schemas.errors import ShoalError
from schemas.jobs import Encoding

ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)

_HEADER: Final = struct.Struct("<4sBBHQ")
_MAGIC: Final = b"SHLT"
_VERSION: Final = 1
_IDS: Final[dict[str, int]] = {"float32": 0, "float16": 1, "int8": 2}

# Elements that share one int8 scale. The scale costs 4 / 256 = 1.6 % on top of one byte an element. Smaller blocks
# follow the values more closely; at 64 the scales would cost 6 %. Scales are float32, since those of differences
# (1e-3 / 127 and less) lie where float16 has lost most of its precision.
BLOCK: Final = 256

# Elements worked on at a time: 256 KiB of float32 and its copies stay in a core's L2 cache; a multiple of BLOCK.
_CHUNK: Final = 65_536

# Blocks whose largest magnitude is under this become zeros: 1 / scale stays finite and nothing gets subnormal, which
# machines may flush to zero. Error feedback carries even this much over.
_SMALLEST: Final = 2.0**-100

# Magnitudes from here on are refused: 128 * scale must stay finite, and no training survives such a difference.
_LARGEST: Final = 2.0**126

_FLOAT16_MAX: Final = 65_504.0


class CodecError(ShoalError):
    """A tensor that can't be encoded, or bytes that are no payload. Attributes: `problem` (what, in words)."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem


_RESEND: Final = "refuse it and ask its sender for it again; if that repeats, run the same Shoal on both machines"


def encoded_size(count: int, encoding: Encoding) -> int:
    """Bytes of the payload that `count` elements make."""
    body = {"float32": 4 * count, "float16": 2 * count, "int8": count + 4 * -(-count // BLOCK)}
    return _HEADER.size + body[encoding]


def encode(flat: Tensor, encoding: Encoding) -> bytes:
    """The payload of a flat float32 CPU tensor of shape (count,).

    float16 rounds to nearest and clamps at its largest number; int8 rounds to the nearest of 255 multiples of
    (largest magnitude of the block) / 127, so that an element is off by half of that at most.

    Raises:
        CodecError: it is not a flat float32 CPU tensor, holds NaN, infinities or magnitudes from 2^126, or the
            encoding is unknown.
    """
    if encoding not in _IDS:
        raise CodecError(f"no encoding {encoding!r}", f"use one of {', '.join(ENCODINGS)}")
    if flat.dim() != 1 or flat.dtype != torch.float32 or flat.device.type != "cpu":
        shape = tuple(flat.shape)
        raise CodecError(f"a {flat.dtype} tensor of shape {shape} on {flat.device}", "flatten it to float32 on the CPU")
    count = flat.numel()
    header = _HEADER.pack(_MAGIC, _IDS[encoding], _VERSION, BLOCK if encoding == "int8" else 0, count)
    if not count:
        return header
    flat = flat.detach().contiguous()
    if encoding == "int8":
        return b"".join((header, *map(_raw, _encode_int8(flat))))
    _refuse_wild(flat)
    body = flat if encoding == "float32" else flat.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16)
    return b"".join((header, _raw(body)))


def decode(payload: bytes | bytearray | memoryview) -> Tensor:
    """The flat float32 tensor that a payload holds: new memory, the same bits on every machine.

    Raises:
        CodecError: unknown magic, version or codec, a size that doesn't fit the count, or a number that is not finite.
    """
    encoding, count = inspect_payload(payload)
    if not count:
        return torch.empty(0)
    buffer = bytearray(payload)
    if encoding == "int8":
        blocks = -(-count // BLOCK)
        scales = _view(buffer, torch.float32, blocks)
        quanta = torch.frombuffer(buffer, dtype=torch.int8, count=count, offset=_HEADER.size + 4 * blocks)
        if not bool(((scales >= 0) & (scales <= _LARGEST / 127)).all()):
            raise CodecError("a scale that is negative, huge or not a number", _RESEND)
        return _decode_int8(scales, quanta)
    dtype = torch.float32 if encoding == "float32" else torch.float16
    flat = _view(buffer, dtype, count).to(torch.float32)
    _refuse_wild(flat)
    return flat


def inspect_payload(payload: bytes | bytearray | memoryview) -> tuple[Encoding, int]:
    """Encoding and element count of a payload, its header and its size checked and nothing decoded.

    Raises:
        CodecError: as `decode`, but for the numbers themselves.
    """
    if len(payload) < _HEADER.size:
        raise CodecError(f"{len(payload)} bytes are too few for a tensor", _RESEND)
    magic, codec, version, block, count = _HEADER.unpack_from(payload)
    if magic != _MAGIC or version != _VERSION:
        raise CodecError(f"bytes that begin with {bytes(magic)!r}, version {version}, are no tensor we know", _RESEND)
    if codec >= len(ENCODINGS):
        raise CodecError(f"unknown codec {codec}", _RESEND)
    encoding = ENCODINGS[codec]
    if block != (BLOCK if encoding == "int8" else 0):
        raise CodecError(f"blocks of {block} elements for {encoding}", _RESEND)
    if len(payload) != encoded_size(count, encoding):
        found, wanted = len(payload), encoded_size(count, encoding)
        raise CodecError(f"{found} bytes where {count} elements as {encoding} take {wanted}", _RESEND)
    return encoding, count


class ErrorFeedback:
    """Remembers what encoding lost and adds it to the next difference, so that no signal is lost for good.

    After any number of calls the decoded payloads and the residual add up to the differences put in (up to float32
    rounding). Seide et al. 2014 (1-bit SGD); Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1.
    """

    def __init__(self, count: int) -> None:
        self.residual = torch.zeros(count)
        """What is still owed, shape (count,), float32. Local to the node; never compared."""

    def encode(self, delta: Tensor, encoding: Encoding) -> bytes:
        """The payload of `delta` plus what is owed.

        Raises:
            CodecError: as `encode`; a `delta` of another length than `count`. The residual is then unchanged.
        """
        if delta.shape != self.residual.shape:
            wanted = self.residual.numel()
            raise CodecError(f"a difference of {delta.numel()} elements, not {wanted}", "begin a new ErrorFeedback")
        owed = delta + self.residual
        payload = encode(owed, encoding)
        self.residual = torch.zeros_like(owed) if encoding == "float32" else owed.sub_(decode(payload))
        return payload


def _encode_int8(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Scales, shape (ceil(count / BLOCK),), and quanta, shape (count,), made a cache-sized chunk at a time."""
    count = flat.numel()
    scales, quanta = torch.empty(-(-count // BLOCK)), torch.empty(count, dtype=torch.int8)
    whole = count // BLOCK * BLOCK
    work = torch.empty(_CHUNK)
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        rows = flat[start:stop].view(-1, BLOCK)
        _quantise(rows, scales[start // BLOCK : stop // BLOCK], quanta[start:stop], work[: stop - start])
    if whole < count:
        _quantise(flat[whole:].unsqueeze(0), scales[-1:], quanta[whole:], work[: count - whole])
    _refuse_wild(scales, _LARGEST / 127)
    return scales, quanta


def _quantise(rows: Tensor, scales: Tensor, quanta: Tensor, work: Tensor) -> None:
    """One scale a row: scale = max |x| / 127, quantum = round(x * 127 / max |x|)."""
    # Two reductions along rows are five times as fast in torch as abs().amax() or aminmax().
    largest = torch.maximum(rows.amax(1), rows.amin(1).neg_())
    largest = torch.where(largest < _SMALLEST, torch.zeros_like(largest), largest)
    torch.div(largest, 127.0, out=scales)
    inverse = torch.where(largest > 0, 127.0 / largest, largest)
    torch.mul(rows, inverse.unsqueeze(1), out=work.view(rows.shape))
    # 127 / max * max may exceed 127 by a rounding error, which rounding to an integer takes away again.
    quanta.copy_(work.round_())


def _decode_int8(scales: Tensor, quanta: Tensor) -> Tensor:
    flat = torch.empty(quanta.numel())
    whole = quanta.numel() // BLOCK * BLOCK
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        part = flat[start:stop].copy_(quanta[start:stop]).view(-1, BLOCK)
        part.mul_(scales[start // BLOCK : stop // BLOCK].unsqueeze(1))
    if whole < quanta.numel():
        flat[whole:].copy_(quanta[whole:]).mul_(scales[-1])
    return flat


def _refuse_wild(numbers: Tensor, bound: float = _LARGEST) -> None:
    low, high = numbers.aminmax()  # both NaN if any element is
    if not (low > -bound and high < bound):
        raise CodecError(
            "a difference with NaN, infinite or huge numbers",
            "the training diverged there; lower the learning rate or look at that node's data and hardware",
        )


def _raw(tensor: Tensor) -> memoryview:
    return tensor.view(torch.uint8).numpy().data


def _view(buffer: bytearray, dtype: torch.dtype, count: int) -> Tensor:
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=_HEADER.size)

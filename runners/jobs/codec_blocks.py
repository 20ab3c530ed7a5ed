"""Numbers in blocks that share a float32 scale: int8 (255 levels) and int4 (15 levels, two values a byte).

    scale = max |x| of the block / 127 or 7        quantum = round(x / scale)

Scales are float32, since those of differences (1e-3 / 127 and less) lie where float16 has lost most of its precision.
Decoding converts, subtracts a whole number and multiplies once: the same bits whatever the vector instructions.
"""

from typing import Final

import torch
from torch import Tensor

from runners.jobs.codec_numbers import LARGEST, RESEND, SMALLEST, CodecError, refuse_wild

# Elements that share one int8 scale. The scale costs 4 / 256 = 1.6 % on top of one byte an element. Smaller blocks
# follow the values more closely; at 64 the scales would cost 6 %.
INT8_BLOCK: Final = 256

# Elements that share one int4 scale, 6 % on top of half a byte each: with 15 levels a block's largest value costs the
# others more, so that blocks are smaller; at 64 the scales would cost 12 %.
INT4_BLOCK: Final = 128

# Elements worked on at a time: 256 KiB of float32 and its copies stay in a core's L2 cache; a multiple of both blocks.
_CHUNK: Final = 65_536

# Added to an int4 quantum (-7 to 7) for its nibble: 1 to 15. A nibble of 0 is none of ours.
_MIDDLE: Final = 8


def int8_scales(count: int) -> int:
    """Scales of `count` elements."""
    return -(-count // INT8_BLOCK)


def int8_size(count: int) -> int:
    """Bytes of scales and quanta."""
    return 4 * int8_scales(count) + count


def encode_int8(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Scales, shape (ceil(count / block),), and quanta, shape (count,), made a cache-sized chunk at a time.

    Raises:
        CodecError: NaN, infinities or magnitudes from 2^126.
    """
    count = flat.numel()
    scales, quanta = torch.empty(int8_scales(count)), torch.empty(count, dtype=torch.int8)
    whole = count // INT8_BLOCK * INT8_BLOCK
    work = torch.empty(_CHUNK)
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        rows = flat[start:stop].view(-1, INT8_BLOCK)
        part = scales[start // INT8_BLOCK : stop // INT8_BLOCK]
        quanta[start:stop].copy_(_quantise(rows, 127.0, part, work[: stop - start]).view(-1))
    if whole < count:
        quanta[whole:].copy_(_quantise(flat[whole:].unsqueeze(0), 127.0, scales[-1:], work[: count - whole])[0])
    refuse_wild(scales, LARGEST / 127)
    return scales, quanta


def decode_int8(scales: Tensor, quanta: Tensor) -> Tensor:
    """The numbers, flat float32 in new memory.

    Raises:
        CodecError: a scale that no difference has.
    """
    _check_scales(scales, LARGEST / 127)
    flat = torch.empty(quanta.numel())
    whole = quanta.numel() // INT8_BLOCK * INT8_BLOCK
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        part = flat[start:stop].copy_(quanta[start:stop]).view(-1, INT8_BLOCK)
        part.mul_(scales[start // INT8_BLOCK : stop // INT8_BLOCK].unsqueeze(1))
    if whole < quanta.numel():
        flat[whole:].copy_(quanta[whole:]).mul_(scales[-1])
    return flat


def int4_scales(count: int) -> int:
    """Scales of `count` elements."""
    return -(-count // INT4_BLOCK)


def int4_size(count: int) -> int:
    """Bytes of scales and pairs."""
    return 4 * int4_scales(count) + -(-count // 2)


def encode_int4(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Scales, shape (ceil(count / block),), and pairs, uint8 of shape (ceil(count / 2),).

    In a block of n elements byte j holds element j in its low nibble and element j + ceil(n / 2) in its high one: halves
    of rows are worked on whole, where neighbours in one byte would have to be picked apart.

    Raises:
        CodecError: NaN, infinities or magnitudes from 2^126.
    """
    count = flat.numel()
    scales, pairs = torch.empty(int4_scales(count)), torch.empty(-(-count // 2), dtype=torch.uint8)
    whole = count // INT4_BLOCK * INT4_BLOCK
    work, sums = torch.empty(_CHUNK), torch.empty(_CHUNK // 2)
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        rows = flat[start:stop].view(-1, INT4_BLOCK)
        part = scales[start // INT4_BLOCK : stop // INT4_BLOCK]
        quanta = _quantise(rows, 7.0, part, work[: stop - start])
        _pair(quanta, sums[: (stop - start) // 2].view(-1, INT4_BLOCK // 2), pairs[start // 2 : stop // 2])
    if whole < count:
        rest = torch.zeros((count - whole + 1) // 2 * 2)
        _quantise(flat[whole:].unsqueeze(0), 7.0, scales[-1:], rest[: count - whole])
        _pair(rest.unsqueeze(0), sums[: len(rest) // 2].unsqueeze(0), pairs[whole // 2 :])
    refuse_wild(scales, LARGEST / 7)
    return scales, pairs


def decode_int4(scales: Tensor, pairs: Tensor, count: int) -> Tensor:
    """The numbers, flat float32 in new memory.

    Raises:
        CodecError: a scale that no difference has, a nibble that is no quantum, padding that isn't zero.
    """
    _check_scales(scales, LARGEST / 7)
    if count % 2 and int(pairs[-1]) >> 4 != _MIDDLE:
        raise CodecError("padding that isn't zero", RESEND)
    flat = torch.empty(len(pairs) * 2)
    whole = count // INT4_BLOCK * INT4_BLOCK
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        part = scales[start // INT4_BLOCK : stop // INT4_BLOCK].unsqueeze(1)
        halves = pairs[start // 2 : stop // 2].view(-1, INT4_BLOCK // 2)
        _unpair(halves, flat[start:stop].view(-1, INT4_BLOCK)).mul_(part)
    if whole < count:
        _unpair(pairs[whole // 2 :].unsqueeze(0), flat[whole:].unsqueeze(0)).mul_(scales[-1])
    return flat[:count]


def _quantise(rows: Tensor, levels: float, scales: Tensor, work: Tensor) -> Tensor:
    """One scale a row into `scales`; the quanta as whole float32 numbers in `work`, shaped as the rows."""
    # Two reductions along rows are five times as fast in torch as abs().amax() or aminmax().
    largest = torch.maximum(rows.amax(1), rows.amin(1).neg_())
    largest = torch.where(largest < SMALLEST, torch.zeros_like(largest), largest)
    torch.div(largest, levels, out=scales)
    inverse = torch.where(largest > 0, levels / largest, largest)
    quanta = work.view(rows.shape)
    torch.mul(rows, inverse.unsqueeze(1), out=quanta)
    # levels / max * max may exceed `levels` by a rounding error, which rounding to an integer takes away again.
    return quanta.round_()


def _pair(quanta: Tensor, sums: Tensor, pairs: Tensor) -> None:
    """Rows of quanta as bytes: low + 16 * high, exact in float32, which torch converts faster than it shifts."""
    half = sums.shape[1]
    torch.add(quanta[:, :half], quanta[:, half:], alpha=16, out=sums)
    pairs.copy_(sums.add_(_MIDDLE * 17).view(-1))


def _unpair(pairs: Tensor, rows: Tensor) -> Tensor:
    """The quanta of rows of bytes, into float32 rows of twice the length."""
    half = pairs.shape[1]
    low, high = pairs & 15, pairs >> 4
    if not (low.amin() and high.amin()):
        raise CodecError("a nibble that is no quantum", RESEND)
    rows[:, :half].copy_(low)
    rows[:, half:].copy_(high)
    return rows.sub_(_MIDDLE)


def _check_scales(scales: Tensor, bound: float) -> None:
    if not bool(((scales >= 0) & (scales <= bound)).all()):
        raise CodecError("a scale that is negative, huge or not a number", RESEND)

"""Numbers in blocks that share a float32 scale: int8 (255 levels) and int4 (15 levels, two values a byte).

    scale = max |x| of the block / 127 or 7        quantum = round(x / scale)

Scales are float32, since those of differences (1e-3 / 127 and less) lie where float16 has lost most of its precision.
Decoding converts, subtracts a whole number and multiplies once: the same bits whatever the vector instructions.

All functions here work on one chunk, which begins with a block.
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

# Added to an int4 quantum (-7 to 7) for its nibble: 1 to 15. A nibble of 0 is none of ours.
_MIDDLE: Final = 8


def int8_scales(count: int) -> int:
    """Scales of `count` elements."""
    return -(-count // INT8_BLOCK)


def int8_size(count: int) -> int:
    """Bytes of scales and quanta."""
    return 4 * int8_scales(count) + count


def encode_int8(flat: Tensor, scales: Tensor, quanta: Tensor) -> None:
    """Into scales, shape (ceil(count / block),), and quanta, int8 of shape (count,).

    Raises:
        CodecError: NaN, infinities or magnitudes from 2^126.
    """
    count = flat.numel()
    whole = count // INT8_BLOCK * INT8_BLOCK
    if whole:
        rows = flat[:whole].view(-1, INT8_BLOCK)
        quanta[:whole].copy_(_quantise(rows, 127.0, scales[: whole // INT8_BLOCK], torch.empty(whole)).view(-1))
    if whole < count:
        quanta[whole:].copy_(_quantise(flat[whole:].unsqueeze(0), 127.0, scales[-1:], torch.empty(count - whole))[0])
    refuse_wild(scales, LARGEST / 127)


def decode_int8(scales: Tensor, quanta: Tensor) -> Tensor:
    """The numbers, flat float32 in new memory.

    Raises:
        CodecError: a scale that no difference has.
    """
    _check_scales(scales, LARGEST / 127)
    count = quanta.numel()
    flat = quanta.to(torch.float32)
    whole = count // INT8_BLOCK * INT8_BLOCK
    if whole:
        flat[:whole].view(-1, INT8_BLOCK).mul_(scales[: whole // INT8_BLOCK].unsqueeze(1))
    if whole < count:
        flat[whole:].mul_(scales[-1])
    return flat


def int4_scales(count: int) -> int:
    """Scales of `count` elements."""
    return -(-count // INT4_BLOCK)


def int4_size(count: int) -> int:
    """Bytes of scales and pairs."""
    return 4 * int4_scales(count) + -(-count // 2)


def encode_int4(flat: Tensor, scales: Tensor, pairs: Tensor) -> None:
    """Into scales, shape (ceil(count / block),), and pairs, uint8 of shape (ceil(count / 2),).

    In a block of n elements byte j holds element j in its low nibble and element j + ceil(n / 2) in its high one: halves
    of rows are worked on whole, where neighbours in one byte would have to be picked apart.

    Raises:
        CodecError: NaN, infinities or magnitudes from 2^126.
    """
    count = flat.numel()
    whole = count // INT4_BLOCK * INT4_BLOCK
    if whole:
        rows = flat[:whole].view(-1, INT4_BLOCK)
        quanta = _quantise(rows, 7.0, scales[: whole // INT4_BLOCK], torch.empty(whole))
        _pair(quanta, torch.empty(whole // 2).view(-1, INT4_BLOCK // 2), pairs[: whole // 2])
    if whole < count:
        rest = torch.zeros((count - whole + 1) // 2 * 2)
        _quantise(flat[whole:].unsqueeze(0), 7.0, scales[-1:], rest[: count - whole])
        _pair(rest.unsqueeze(0), torch.empty(1, len(rest) // 2), pairs[whole // 2 :])
    refuse_wild(scales, LARGEST / 7)


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
    if whole:
        halves = pairs[: whole // 2].view(-1, INT4_BLOCK // 2)
        _unpair(halves, flat[:whole].view(-1, INT4_BLOCK)).mul_(scales[: whole // INT4_BLOCK].unsqueeze(1))
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

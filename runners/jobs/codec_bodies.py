"""What follows a payload's header: where each element's bits lie, written and read a chunk at a time.

A chunk begins at a multiple of the body's `step` (`vectors.CHUNK` is one for all of them), and ends there or with one of
the body's `sections`.
"""

from dataclasses import dataclass
from typing import Final, Protocol

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
    int8_scales,
    int8_size,
)
from runners.jobs.codec_numbers import refuse_wild, view
from runners.jobs.codec_topk import CHUNK, KEPT, choose, kept_of, spread

_FLOAT16_MAX: Final = 65_504.0

Bytes = bytes | bytearray | memoryview


class Body(Protocol):
    """One codec's numbers. All raise a CodecError for numbers, or bits, that are no difference's."""

    @property
    def step(self) -> int:
        """Where a chunk may begin: at a multiple of this."""

    @property
    def sections(self) -> tuple[int, ...]:
        """Where parts of the vector end that no chunk may reach across, the last of them at its end."""

    def put(self, memory: memoryview, start: int, numbers: Tensor) -> None:
        """Encodes a chunk."""

    def get(self, memory: memoryview, start: int, stop: int) -> Tensor:
        """Decodes a chunk, into new memory."""


@dataclass(frozen=True, slots=True)
class Floats:
    """float32, or float16: rounded to nearest, clamped at its largest number."""

    at: int
    count: int
    dtype: torch.dtype
    step: int = 1

    @property
    def sections(self) -> tuple[int, ...]:
        """See `Body`."""
        return (self.count,)

    def put(self, memory: memoryview, start: int, numbers: Tensor) -> None:
        """See `Body`."""
        refuse_wild(numbers)
        if self.dtype is torch.float16:
            numbers = numbers.clamp(-_FLOAT16_MAX, _FLOAT16_MAX)
        view(memory, self.dtype, len(numbers), self.at + self.dtype.itemsize * start).copy_(numbers)

    def get(self, memory: memoryview, start: int, stop: int) -> Tensor:
        """See `Body`."""
        flat = _read(memory, self.dtype, self.at, start, stop).to(torch.float32)
        refuse_wild(flat)
        return flat


@dataclass(frozen=True, slots=True)
class Int8:
    """Scales, and quanta somewhere after them."""

    scales: int
    quanta: int
    count: int
    step: int = INT8_BLOCK

    @property
    def sections(self) -> tuple[int, ...]:
        """See `Body`."""
        return (self.count,)

    def put(self, memory: memoryview, start: int, numbers: Tensor) -> None:
        """See `Body`."""
        count = len(numbers)
        scales = view(memory, torch.float32, int8_scales(count), self.scales + 4 * int8_scales(start))
        encode_int8(numbers, scales, view(memory, torch.int8, count, self.quanta + start))

    def get(self, memory: memoryview, start: int, stop: int) -> Tensor:
        """See `Body`."""
        scales = _read(memory, torch.float32, self.scales, int8_scales(start), int8_scales(stop))
        return decode_int8(scales, _read(memory, torch.int8, self.quanta, start, stop))


@dataclass(frozen=True, slots=True)
class Int4:
    """Scales, then pairs."""

    at: int
    count: int
    step: int = INT4_BLOCK

    @property
    def sections(self) -> tuple[int, ...]:
        """See `Body`."""
        return (self.count,)

    @property
    def _pairs(self) -> int:
        return self.at + 4 * int4_scales(self.count)

    def put(self, memory: memoryview, start: int, numbers: Tensor) -> None:
        """See `Body`."""
        count = len(numbers)
        scales = view(memory, torch.float32, int4_scales(count), self.at + 4 * int4_scales(start))
        encode_int4(numbers, scales, view(memory, torch.uint8, -(-count // 2), self._pairs + start // 2))

    def get(self, memory: memoryview, start: int, stop: int) -> Tensor:
        """See `Body`."""
        scales = _read(memory, torch.float32, self.at, int4_scales(start), int4_scales(stop))
        pairs = _read(memory, torch.uint8, self._pairs, start // 2, -(-stop // 2))
        return decode_int4(scales, pairs, stop - start)


@dataclass(frozen=True, slots=True)
class TopK:
    """The chosen of the first elements and all statistics, both in int8 (scales of both, quanta of both); then places."""

    at: int
    count: int
    statistics: int
    step: int = CHUNK * INT8_BLOCK // KEPT

    @property
    def sections(self) -> tuple[int, ...]:
        """See `Body`."""
        return (self._sums, self.count)

    @property
    def _sums(self) -> int:
        return self.count - self.statistics

    def _parts(self) -> tuple[Int8, Int8, int]:
        kept = kept_of(self._sums)
        scales = self.at + 4 * int8_scales(kept)
        quanta = scales + 4 * int8_scales(self.statistics)
        chosen, whole = Int8(self.at, quanta, kept), Int8(scales, quanta + kept, self.statistics)
        return chosen, whole, self.at + int8_size(kept) + int8_size(self.statistics)

    def put(self, memory: memoryview, start: int, numbers: Tensor) -> None:
        """See `Body`."""
        chosen, whole, at = self._parts()
        if start >= self._sums:
            whole.put(memory, start - self._sums, numbers)
            return
        places, values = choose(numbers)
        chosen.put(memory, kept_of(start), values)
        view(memory, torch.uint8, len(places), at + kept_of(start)).copy_(places)

    def get(self, memory: memoryview, start: int, stop: int) -> Tensor:
        """See `Body`."""
        chosen, whole, at = self._parts()
        if start >= self._sums:
            return whole.get(memory, start - self._sums, stop - self._sums)
        values = chosen.get(memory, kept_of(start), kept_of(stop))
        return spread(_read(memory, torch.uint8, at, kept_of(start), kept_of(stop)), values, stop - start)


def _read(memory: memoryview, dtype: torch.dtype, at: int, start: int, stop: int) -> Tensor:
    """Numbers `start` to `stop` of those that lie from a byte on; a copy, since what was received can't be written to."""
    size = dtype.itemsize
    return view(bytearray(memory[at + size * start : at + size * stop]), dtype, stop - start, 0)

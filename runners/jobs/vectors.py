"""Flat float32 vectors that needn't lie in memory whole: what is looked at of one is made then, a chunk at a time.

A model's parameters fill a machine's memory several times over as it is. So what is only passed on (a difference, an
average) never is one tensor, but a `Vector`: decoded, added up or read out of the model where it is looked at.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

# Elements worked on at a time: 256 KiB of float32 and its copies stay in a core's L2 cache.
CHUNK: Final = 65_536


class Vector(Protocol):
    """Flat float32 numbers on the CPU; a tensor of one dimension is one."""

    def numel(self) -> int:
        """Elements."""

    def __getitem__(self, place: slice, /) -> Tensor:
        """The numbers from start to stop, both given. Not to be written to: they may be anybody's."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a vector."""

    of: Vector
    start: int
    stop: int

    def numel(self) -> int:
        """Elements."""
        return self.stop - self.start

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        return self.of[self.start + place.start : self.start + place.stop]


@dataclass(frozen=True, slots=True)
class Combination:
    """The sum of factor * vector, added up in the order given."""

    factors: Sequence[float]
    vectors: Sequence[Vector]

    def numel(self) -> int:
        """Elements."""
        return self.vectors[0].numel()

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        total = torch.zeros(place.stop - place.start)
        for factor, vector in zip(self.factors, self.vectors, strict=True):
            total.add_(vector[place] * factor)
        return total


@dataclass(frozen=True, slots=True)
class Difference:
    """One vector less another."""

    one: Vector
    other: Vector

    def numel(self) -> int:
        """Elements."""
        return self.one.numel()

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        return self.one[place] - self.other[place]


@dataclass(frozen=True, slots=True)
class Joined:
    """Vectors after each other."""

    vectors: Sequence[Vector]

    def numel(self) -> int:
        """Elements."""
        return sum(vector.numel() for vector in self.vectors)

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        parts, at = [], 0
        for vector in self.vectors:
            start, stop = max(0, place.start - at), min(vector.numel(), place.stop - at)
            if start < stop:
                parts.append(vector[start:stop])
            at += vector.numel()
        return parts[0] if len(parts) == 1 else torch.cat(parts or [torch.empty(0)])


def chunks(stop: int, start: int = 0) -> Iterator[slice]:
    """The places of `CHUNK` elements each, the last of them of what is left."""
    return (slice(at, min(at + CHUNK, stop)) for at in range(start, stop, CHUNK))


def whole(vector: Vector) -> Tensor:
    """All of a vector, in new memory."""
    flat = torch.empty(vector.numel())
    for place in chunks(len(flat)):
        flat[place] = vector[place]
    return flat


def length(vector: Vector) -> float:
    """The L2 norm, in float32: infinite from 1e19 on."""
    return math.hypot(*(float(torch.linalg.vector_norm(vector[place])) for place in chunks(vector.numel())))

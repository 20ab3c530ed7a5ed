"""The parts of a model that rounds exchange in turn: where they lie in the flat vector, and in the model itself.

As in Streaming DiLoCo (arXiv 2501.18512, section 2.2) a fragment is strided over the layers. Cuts are made by length, not
at tensors' ends: all fragments take the same bytes, also of a model that is mostly one embedding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from runners.jobs.layout import Layout, Slot
from runners.jobs.live import Live
from runners.jobs.moving import Range
from runners.jobs.vectors import Joined, Section, Vector, chunks
from schemas.fragments import WHOLE, turn_of

# Pieces of a fragment at most: more strides than this change nothing but the time to gather them.
MOST_PIECES: Final = 16


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of the flat vector: ranges of trained parameters, then of floating-point buffers."""

    ranges: tuple[Range, ...]
    layout: Layout
    """Of the part by itself: how many parameters, and which of its buffers are variances."""

    def of(self, flat: Tensor) -> Tensor:
        """This part of a flat vector; a view where it is one range, else a copy."""
        pieces = [flat[start:stop] for start, stop in self.ranges]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def put(self, part: Tensor, flat: Tensor) -> None:
        """Copies the part back into a flat vector."""
        for piece, (start, stop) in zip(self._pieces(part), self.ranges, strict=True):
            flat[start:stop] = piece

    def read(self, flat: Vector) -> Joined:
        """This part of a flat vector, such as a model's `Live`, read where it is looked at."""
        return Joined([Section(flat, start, stop) for start, stop in self.ranges])

    def add(self, shift: Vector, whole_layout: Layout, model: nn.Module) -> None:
        """Adds a shift, which may be read out of the same model, to this part of it; variances stay at least 0."""
        live = Live(whole_layout, model)
        for place, at in self._chunks():
            live.add(place.start, shift[at])
        live.close()

    def part(self, places: Sequence[Range]) -> "Fragment":
        """What lies at some places of this part, in this order; buffers at most at the end."""
        trained = sum(min(stop, self.layout.parameters) - start for start, stop in places)
        count = sum(stop - start for start, stop in places)
        slots = (Slot("", (trained,), 0, False), Slot("", (count - trained,), trained, True))
        return Fragment(_united(_spans_of(self.ranges, places)), Layout(slots, trained, count))

    def take_out(self, part: Vector, start: int, flat: Tensor) -> None:
        """Subtracts the part, where it lies there, from a piece of a flat vector that begins at `start`."""
        at = 0
        for first, last in self.ranges:
            begin, end = max(first, start), min(last, start + len(flat))
            if begin < end:
                flat[begin - start : end - start] -= part[at + begin - first : at + end - first]
            at += last - first

    def _chunks(self) -> Iterator[tuple[slice, slice]]:
        """Chunks of this part: where they lie in the flat vector, and in the part itself."""
        at = 0
        for start, stop in self.ranges:
            for place in chunks(stop, start):
                yield place, slice(at, at + place.stop - place.start)
                at += place.stop - place.start

    def _pieces(self, part: Tensor) -> Sequence[Tensor]:
        return torch.split(part, [stop - start for start, stop in self.ranges])


class Fragments:
    """A model's fragments and whose turn it is."""

    def __init__(self, layout: Layout, parts: int, rounds: int) -> None:
        """`rounds`: of the job, whose last one exchanges everything."""
        self.parts = min(parts, layout.parameters)
        self._rounds = rounds
        self._whole = Fragment(((0, layout.count),), layout)
        self._each = [_fragment(layout, place, self.parts) for place in range(self.parts)]

    def turn(self, round_: int) -> int:
        """The number of the fragment that a round exchanges; `WHOLE` for everything."""
        return turn_of(round_, self.parts, self._rounds)

    def of(self, round_: int) -> Fragment:
        """What a round exchanges."""
        turn = self.turn(round_)
        return self._whole if turn == WHOLE else self._each[turn]

    @property
    def whole(self) -> Fragment:
        """Everything."""
        return self._whole


def _fragment(layout: Layout, place: int, parts: int) -> Fragment:
    """The one at a place: every `parts`-th of as many equal pieces as the model has layers, about."""
    layers = len({slot.name.rpartition(".")[0] for slot in layout.slots if not slot.buffer})
    pieces = parts * max(1, min(MOST_PIECES, layers // parts, layout.parameters // parts))
    trained = [_piece(0, layout.parameters, number, pieces) for number in range(place, pieces, parts)]
    buffers = _piece(layout.parameters, layout.count, place, parts)
    ranges = tuple(each for each in (*trained, buffers) if each[0] < each[1])
    parameters = sum(stop - start for start, stop in trained)
    slots, offset = [], parameters
    for name, start, stop in _spans(layout.slots, [buffers]):
        slots.append(Slot(name, (stop - start,), offset, True))
        offset += stop - start
    return Fragment(ranges, Layout((Slot("", (parameters,), 0, False), *slots), parameters, offset))


def _spans_of(ranges: Sequence[Range], places: Sequence[Range]) -> Iterator[Range]:
    """Where the places of ranges that are set after each other lie."""
    for begin, end in places:
        at = 0
        for start, stop in ranges:
            first, last = max(begin - at, 0), min(end - at, stop - start)
            if first < last:
                yield start + first, start + last
            at += stop - start


def _united(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Those that follow each other as one, of which no copy need be made."""
    united: list[Range] = []
    for start, stop in ranges:
        if united and united[-1][1] == start:
            united[-1] = united[-1][0], stop
        else:
            united.append((start, stop))
    return tuple(united)


def _piece(start: int, stop: int, number: int, pieces: int) -> Range:
    length = stop - start
    return start + length * number // pieces, start + length * (number + 1) // pieces


def _spans(slots: Sequence[Slot], ranges: Sequence[Range]) -> Iterator[tuple[str, int, int]]:
    """The tensors that ranges touch, in order: name, and start and stop within the tensor."""
    for start, stop in ranges:
        for slot in slots:
            first, last = max(start, slot.offset), min(stop, slot.offset + slot.count)
            if first < last:
                yield slot.name, first - slot.offset, last - slot.offset

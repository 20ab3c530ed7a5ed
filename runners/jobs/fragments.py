"""The parts of a model that rounds exchange in turn: where they lie in the flat vector, and in the model itself.

As in Streaming DiLoCo (arXiv 2501.18512, section 2.2) a fragment is strided over the layers. Cuts are made by length, not
at tensors' ends: all fragments take the same bytes, also of a model that is mostly one embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from runners.jobs.anchor import Anchor, outer_step
from runners.jobs.layout import Layout, Slot, tensors_of
from schemas.fragments import WHOLE, turn_of
from schemas.jobs import OuterStep

# Pieces of a fragment at most: more strides than this change nothing but the time to gather them.
MOST_PIECES: Final = 16

Range = tuple[int, int]
"""Start and stop in the flat vector."""


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

    def subtract(self, part: Tensor, flat: Tensor) -> None:
        """Subtracts the part from where it lies in a flat vector."""
        for piece, (start, stop) in zip(self._pieces(part), self.ranges, strict=True):
            flat[start:stop] -= piece

    def read(self, whole: Layout, model: nn.Module) -> Tensor:
        """This part of a model: a new flat float32 vector on the CPU. Nothing else of the model is copied."""
        tensors = tensors_of(model)
        spans = _spans(whole.slots, self.ranges)
        return torch.cat([_line(tensors[name])[start:stop].to(torch.float32) for name, start, stop in spans]).cpu()

    def add(self, shift: Tensor, whole: Layout, model: nn.Module) -> None:
        """Adds a shift to this part of a model; variances stay at least 0."""
        tensors, at = tensors_of(model), 0
        variances = {slot.name for slot in whole.slots if slot.variance}
        shift = shift.to(next(model.parameters()).device)
        with torch.no_grad():
            for name, start, stop in _spans(whole.slots, self.ranges):
                tensor = tensors[name]
                line = _line(tensor)
                line[start:stop] += shift[at : at + stop - start]
                if name in variances:
                    line.clamp_(min=0.0)
                if not tensor.is_contiguous():  # then the line is a copy
                    tensor.copy_(line.view(tensor.shape))
                at += stop - start

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


def step_of(anchor: Anchor, average: Tensor, fragment: Fragment, kind: OuterStep, lr: float, momentum: float) -> Anchor:
    """The next version of an anchor, given the average difference of one fragment: the others stay as they are.

    The arithmetic is `outer_step`'s, on the fragment alone, and so are its errors. A fragment moves in the anchor's own
    memory, which the old version shares from then on: a copy would be the largest thing that overlapping needs.
    """
    layout = anchor.layout
    if fragment.layout.count == layout.count:
        return outer_step(anchor, average, kind, lr, momentum)
    trained = Fragment(tuple(r for r in fragment.ranges if r[1] <= layout.parameters), fragment.layout)
    before = None if anchor.momentum is None else trained.of(anchor.momentum)
    part = Anchor(anchor.version, fragment.layout, fragment.of(anchor.values), before, {})
    moved = outer_step(part, average, kind, lr, momentum)
    moments = anchor.momentum
    fragment.put(moved.values, anchor.values)
    if moved.momentum is not None:
        moments = torch.zeros(layout.parameters) if moments is None else moments
        trained.put(moved.momentum, moments)
    return Anchor(moved.version, layout, anchor.values, moments, anchor.constants, anchor.optimizer)


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


def _line(tensor: Tensor) -> Tensor:
    """A tensor's numbers in a row: the live ones where they lie so, else a copy."""
    return tensor.detach().reshape(-1)

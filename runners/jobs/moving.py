"""Outer steps in the anchor's own memory, a chunk at a time, and whoever holds more than the anchor moved along.

The arithmetic is as the anchor's module says: float32 on the CPU, separate elementwise operations. So the bits don't
depend on how the work is cut up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from runners.jobs.anchor import Anchor, AnchorError
from runners.jobs.layout import Layout
from runners.jobs.vectors import Vector, chunks
from schemas.jobs import OuterStep

Range = tuple[int, int]
"""Start and stop in the flat vector."""

Follow = Callable[[int, Tensor, Tensor], None]
"""Told of a part of an anchor that has moved: where it begins, what its values are now, and by how much it went (which may
be written to). A part is all parameters or all buffers."""


@dataclass(frozen=True, slots=True)
class Outer:
    """How averages move anchors; see `step`."""

    kind: OuterStep = "average"
    lr: float = 1.0
    momentum: float = 0.9


def step(anchor: Anchor, average: Vector, outer: Outer, ranges: Sequence[Range], follow: Follow | None = None) -> Anchor:
    """The next version of an anchor, given the weighted average of the nodes' differences in these ranges of it.

    average:   values' = values + lr * delta
    nesterov:  m' = momentum * m + delta;  values' = values + lr * (delta + momentum * m')

    The second is SGD with Nesterov momentum in torch's form, descending along the outer gradient g = -delta with
    buffer b = -m (DiLoCo, arXiv 2311.08105, section 2: lr 0.7 and momentum 0.9 there). Floating-point buffers of the
    model always take `values + delta`: they are statistics, which momentum would push past their range; variances stay at
    least 0.

    The anchor moves in its own memory: the version before is spent.

    Raises:
        AnchorError: `average` is not as long as the ranges.
    """
    due = sum(stop - start for start, stop in ranges)
    if average.numel() != due:
        raise AnchorError(
            f"a difference of {average.numel()} elements, where {due} are due",
            "refuse the contribution; that node runs another workload or another version of it",
        )
    layout, moments = anchor.layout, anchor.momentum
    if outer.kind == "nesterov" and moments is None:
        moments = torch.zeros(layout.parameters)
    for place, at in _pieces(ranges, layout):
        delta, values = average[at : at + place.stop - place.start], anchor.values[place]
        before = values.clone() if follow is not None else None
        if place.start >= layout.parameters:
            values.add_(delta)
            _clamp(layout, anchor.values, place)
        elif outer.kind == "average" or moments is None:
            values.add_(delta.mul(outer.lr))
        else:
            moved = moments[place]
            if anchor.momentum is None:
                moved.copy_(delta)
            else:
                moved.mul_(outer.momentum).add_(delta)
            values.add_(moved.mul(outer.momentum).add_(delta).mul_(outer.lr))
        if follow is not None and before is not None:
            follow(place.start, values, torch.sub(values, before, out=before))
    return replace(anchor, version=anchor.version + 1, momentum=moments)


def take_over(anchor: Anchor, new: Anchor, follow: Follow | None = None) -> Anchor:
    """Another anchor of the same layout, in this one's memory, which is spent."""
    for place, _ in _pieces([(0, anchor.layout.count)], anchor.layout):
        values, wanted = anchor.values[place], new.values[place]
        shift = wanted - values if follow is not None else None
        values.copy_(wanted)
        if follow is not None and shift is not None:
            follow(place.start, values, shift)
    return replace(new, values=anchor.values)


def outer_step(
    anchor: Anchor, average: Vector, kind: OuterStep = "average", lr: float = 1.0, momentum: float = 0.9
) -> Anchor:
    """`step` on all of an anchor, in new memory: the version before stays as it is."""
    moments = None if anchor.momentum is None else anchor.momentum.clone()
    mine = replace(anchor, values=anchor.values.clone(), momentum=moments)
    return step(mine, average, Outer(kind, lr, momentum), [(0, anchor.layout.count)])


def _pieces(ranges: Sequence[Range], layout: Layout) -> Iterator[tuple[slice, int]]:
    """Chunks of the ranges, none with both parameters and buffers; and where they begin in the ranges alone."""
    at = 0
    for start, stop in ranges:
        middle = min(max(start, layout.parameters), stop)
        for begin, end in ((start, middle), (middle, stop)):
            for place in chunks(end, begin):
                yield place, at
                at += place.stop - place.start


def _clamp(layout: Layout, values: Tensor, place: slice) -> None:
    for start, stop in layout.variances:
        values[max(start, place.start) : max(0, min(stop, place.stop))].clamp_(min=0.0)

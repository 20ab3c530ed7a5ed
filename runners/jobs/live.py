"""The tensors of a model as one flat vector, read and moved where they are: on their device, in their dtype."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from runners.jobs.layout import Layout, tensors_of


class Lines:
    """Tensors after each other, as a `Vector`. Those whose memory is no plain row are copied once."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._lines = [tensor.detach().reshape(-1) for tensor in tensors]
        self._ends = [0]
        for line in self._lines:
            self._ends.append(self._ends[-1] + line.numel())

    def numel(self) -> int:
        """Elements."""
        return self._ends[-1]

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        parts = [self._lines[which][start:stop].to(torch.float32) for which, start, stop in self._spans(place)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts or [torch.empty(0)])).cpu()

    def _spans(self, place: slice) -> Iterator[tuple[int, int, int]]:
        """The lines that a place touches, in order: which, and start and stop within it."""
        which, at = bisect_right(self._ends, place.start) - 1, place.start
        while at < place.stop:
            begin, end = self._ends[which], min(place.stop, self._ends[which + 1])
            if at < end:
                yield which, at - begin, end - begin
            which, at = which + 1, max(at, end)


class Live(Lines):
    """A model's parameters and floating-point buffers in a layout's order. `close` it after writing."""

    def __init__(self, layout: Layout, model: nn.Module) -> None:
        """Raises a `LayoutMismatch` for a model that is made of other tensors."""
        layout.require(Layout.of(model))
        present = tensors_of(model)
        self._tensors = [present[slot.name] for slot in layout.slots]
        self._variances = [slot.variance for slot in layout.slots]
        super().__init__(self._tensors)

    def add(self, start: int, shift: Tensor) -> None:
        """Moves elements from `start` on; variances stay at least 0."""
        for which, part, new in self._parts(start, shift):
            part.add_(new)
            if self._variances[which]:
                part.clamp_(min=0.0)

    def set(self, start: int, values: Tensor) -> None:
        """Sets elements from `start` on."""
        for _, part, new in self._parts(start, values):
            part.copy_(new)

    def close(self) -> None:
        """Brings what was written to copies into the model."""
        with torch.no_grad():
            for tensor, line in zip(self._tensors, self._lines, strict=True):
                if not tensor.is_contiguous():
                    tensor.copy_(line.view(tensor.shape))

    def _parts(self, start: int, numbers: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        numbers, at = numbers.to(self._lines[0].device), 0
        for which, begin, end in self._spans(slice(start, start + len(numbers))):
            yield which, self._lines[which][begin:end], numbers[at : at + end - begin]
            at += end - begin

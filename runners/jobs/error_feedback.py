"""What encoding lost is owed, and paid with the next difference."""

import numpy
import torch
from torch import Tensor

from runners.jobs.codecs import CodecError, Writer
from runners.jobs.fragments import Fragment
from runners.jobs.vectors import Vector, chunks
from schemas.jobs import Encoding


class ErrorFeedback:
    """Remembers what encoding lost and adds it to the next difference, so that no signal is lost for good.

    After any number of calls the decoded payloads and the residual add up to the differences put in (up to float32
    rounding). Seide et al. 2014 (1-bit SGD); Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1.
    """

    def __init__(self, count: int, statistics: int = 0) -> None:
        self.residual = _nothing(count)
        """What is still owed, shape (count,), float32. Local to the node; never compared."""
        self._statistics = statistics
        self._lossy = False  # nothing has been owed so far: the residual takes no memory

    def encode_part(self, delta: Vector, encoding: Encoding, fragment: Fragment) -> bytes:
        """`encode` for one fragment of the elements, with its own statistics last: what the others are owed stays."""
        if fragment.layout.count == self.residual.numel():
            return self.encode(delta, encoding)
        part = ErrorFeedback(0, fragment.layout.count - fragment.layout.parameters)
        part.residual = fragment.of(self.residual)
        payload = part.encode(delta, encoding)
        if self._lossy or encoding != "float32":
            self._lossy = True
            fragment.put(part.residual, self.residual)
        return payload

    def encode(self, delta: Vector, encoding: Encoding) -> bytes:
        """The payload of `delta` plus what is owed.

        Raises:
            CodecError: as `encode`: what is owed is then of no use any more. A `delta` of another length than `count`,
                an unknown encoding: it is then unchanged.
        """
        count = self.residual.numel()
        if delta.numel() != count:
            raise CodecError(f"a difference of {delta.numel()} elements, not {count}", "begin a new ErrorFeedback")
        writer = Writer(count, encoding, self._statistics)
        # In its own memory: a chunk is in the processor's cache once, and no vector of this length is made besides.
        if encoding == "float32":  # loses nothing
            for place in writer.chunks():
                writer.put(place, self.residual[place] + delta[place])
            self.residual, self._lossy = _nothing(count), False
            return writer.payload()
        self._lossy = True
        for place in writer.chunks():
            owed = self.residual[place].add_(delta[place])
            writer.put(place, owed)
            owed.sub_(writer.decoded(place))
        return writer.payload()

    def take_back(self, payload: Vector, fragment: Fragment) -> None:
        """What was encoded last, of a fragment, is not sent: all of it is owed again, the difference included."""
        whole = fragment.layout.count == self.residual.numel()
        owed = self.residual if whole else fragment.of(self.residual)
        for place in chunks(payload.numel()):
            owed[place].add_(payload[place])
        if not whole:
            fragment.put(owed, self.residual)
        self._lossy = True


def _nothing(count: int) -> Tensor:
    """Zeros that take no memory before something else is written there, which torch's own do."""
    return torch.from_numpy(numpy.zeros(count, dtype=numpy.float32))

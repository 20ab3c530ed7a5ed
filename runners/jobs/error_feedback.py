"""What encoding lost is owed, and paid with the next difference."""

import torch
from torch import Tensor

from runners.jobs.codecs import CodecError, decode, encode
from runners.jobs.fragments import Fragment
from schemas.jobs import Encoding


class ErrorFeedback:
    """Remembers what encoding lost and adds it to the next difference, so that no signal is lost for good.

    After any number of calls the decoded payloads and the residual add up to the differences put in (up to float32
    rounding). Seide et al. 2014 (1-bit SGD); Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1.
    """

    def __init__(self, count: int, statistics: int = 0) -> None:
        self.residual = torch.zeros(count)
        """What is still owed, shape (count,), float32. Local to the node; never compared."""
        self._statistics = statistics

    def encode_part(self, delta: Tensor, encoding: Encoding, fragment: Fragment) -> bytes:
        """`encode` for one fragment of the elements, with its own statistics last: what the others are owed stays."""
        if fragment.layout.count == self.residual.numel():
            return self.encode(delta, encoding)
        part = ErrorFeedback(0, fragment.layout.count - fragment.layout.parameters)
        part.residual = fragment.of(self.residual)
        payload = part.encode(delta, encoding)
        fragment.put(part.residual, self.residual)
        return payload

    def encode(self, delta: Tensor, encoding: Encoding) -> bytes:
        """The payload of `delta` plus what is owed.

        Raises:
            CodecError: as `encode`; a `delta` of another length than `count`. The residual is then unchanged.
        """
        if delta.shape != self.residual.shape:
            wanted = self.residual.numel()
            raise CodecError(f"a difference of {delta.numel()} elements, not {wanted}", "begin a new ErrorFeedback")
        owed = delta + self.residual
        payload = encode(owed, encoding, self._statistics)
        self.residual = torch.zeros_like(owed) if encoding == "float32" else owed.sub_(decode(payload))
        return payload

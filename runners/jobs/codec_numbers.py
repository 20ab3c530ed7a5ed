"""What every codec refuses, and bytes as tensors."""

from typing import Final

import torch
from torch import Tensor

from schemas.errors import ShoalError

# Blocks whose largest magnitude is under this become zeros: 1 / scale stays finite and nothing gets subnormal, which
# machines may flush to zero. Error feedback carries even this much over.
SMALLEST: Final = 2.0**-100

# Magnitudes from here on are refused: 128 * scale must stay finite, and no training survives such a difference.
LARGEST: Final = 2.0**126

# What a node can do about a payload that is none.
RESEND: Final = "refuse it and ask its sender for it again; if that repeats, run the same Shoal on both machines"


class CodecError(ShoalError):
    """A tensor that can't be encoded, or bytes that are no payload. Attributes: `problem` (what, in words)."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem


def refuse_wild(numbers: Tensor, bound: float = LARGEST) -> None:
    """Raises a CodecError unless all magnitudes are under `bound`."""
    if not numbers.numel():
        return
    low, high = numbers.aminmax()  # both NaN if any element is
    if not (low > -bound and high < bound):
        raise CodecError(
            "a difference with NaN, infinite or huge numbers",
            "the training diverged there; lower the learning rate or look at that node's data and hardware",
        )


def view(buffer: bytearray | memoryview, dtype: torch.dtype, count: int, offset: int) -> Tensor:
    """`count` numbers in a buffer, from a byte on; no copy."""
    if not count:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset)

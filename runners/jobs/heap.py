"""What was freed goes back to the system, before the next large thing is made.

The C library keeps freed blocks for the next that ask for as much, and grows the process where a larger one is wanted:
after local steps it holds the gradients' and activations' memory in pieces of a layer each, in which no vector of a whole
model has room. To have large blocks always mapped by themselves (M_MMAP_THRESHOLD) would do too, but then every step gets
its gradients' memory anew, page by page: a step of 25 million parameters took 40 ms more, and this takes 3 ms a round.
"""

import ctypes
import gc
from collections.abc import Callable
from functools import cache

import torch

WORTH_BYTES = 16 * 1024 * 1024
"""Of a model, from which giving back pays: what smaller ones leave is little next to torch itself."""


def give_back(model_bytes: int) -> None:
    """Returns whole free pages of the C library's to the system, where a model is large and the library can (glibc)."""
    trim = _trim()
    if model_bytes >= WORTH_BYTES and trim is not None:
        trim(0)


def free_unused() -> None:
    """Collects garbage, empties the cache of the accelerator's allocator, returns free pages whatever a model's size."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # no such function, or no way to ask for it
        return None
    return found

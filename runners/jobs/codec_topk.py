"""The largest magnitudes of each chunk: one element of 32, as its place in the chunk and its value in int8.

What is not sent stays with the sender (Stich et al. 2018, arXiv 1809.07599: SGD with sparsification and memory converges
as plain SGD does). A choice per chunk, and not over the whole vector, gives every layer its turn, and a place in a chunk
of 256 takes one byte: with its value two bytes for 32 elements of four bytes each.
"""

from typing import Final

import torch
from torch import Tensor

from runners.jobs.codec_numbers import RESEND, CodecError

# Elements that compete with each other: as many as a byte can tell apart.
CHUNK: Final = 256

# Elements sent of a chunk: an eighth of int4's bytes. Of a shorter last chunk as large a part, rounded up.
KEPT: Final = 8

# Of a float32's bits: all of the magnitude but its last 8, where the place goes. Magnitudes that differ by less than
# 2^-15 of themselves count as equal.
_MAGNITUDE: Final = 0x7FFFFF00


def kept_of(count: int) -> int:
    """Elements sent of so many."""
    whole, rest = divmod(count, CHUNK)
    return whole * KEPT + -(-rest * KEPT // CHUNK)


def choose(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Places in their chunks, uint8, rising in each, and the values there; both of shape (kept_of(count),).

    NaN and infinities are the largest of all, so that whoever encodes the values sees them.
    """
    count = flat.numel()
    places, values = torch.empty(kept_of(count), dtype=torch.uint8), torch.empty(kept_of(count))
    whole = count // CHUNK * CHUNK
    if whole:
        there = slice(0, whole // CHUNK * KEPT)
        _choose(flat[:whole].view(-1, CHUNK), places[there], values[there])
    if whole < count:
        there = slice(whole // CHUNK * KEPT, None)
        _choose(flat[whole:].unsqueeze(0), places[there], values[there])
    return places, values


def spread(places: Tensor, values: Tensor, count: int) -> Tensor:
    """The values at their places and zeros elsewhere: flat float32 in new memory, shape (count,).

    Raises:
        CodecError: places of a chunk that repeat, don't rise, or lie outside a shorter last one.
    """
    flat = torch.zeros(count)
    whole = count // CHUNK
    if whole:
        rows = flat[: whole * CHUNK].view(-1, CHUNK)
        _spread(places[: whole * KEPT].view(-1, KEPT), values[: whole * KEPT].view(-1, KEPT), rows)
    if whole * CHUNK < count:
        rest = places[whole * KEPT :].unsqueeze(0)
        _spread(rest, values[whole * KEPT :].unsqueeze(0), flat[whole * CHUNK :].unsqueeze(0))
    return flat


def _choose(rows: Tensor, places: Tensor, values: Tensor) -> None:
    """Non-negative floats order as their bits do, so a key of bits and place is one integer, and no two are equal."""
    width = rows.shape[1]
    kept = len(places) // len(rows)
    keys = torch.bitwise_and(rows.view(torch.int32), _MAGNITUDE)
    keys.bitwise_or_(torch.arange(width, dtype=torch.int32))
    found = keys.numpy()  # numpy's partition is six times as fast as torch's topk or kthvalue
    found.partition(width - kept, axis=1)
    rising = keys[:, width - kept :].bitwise_and(0xFF).to(torch.uint8)
    rising.numpy().sort(axis=1)
    places.copy_(rising.view(-1))
    values.copy_(rows.gather(1, rising.to(torch.int64)).view(-1))


def _spread(places: Tensor, values: Tensor, rows: Tensor) -> None:
    if not bool((places[:, 1:] > places[:, :-1]).all()) or int(places[:, -1].amax()) >= rows.shape[1]:
        raise CodecError("places that repeat, don't rise or lie outside their chunk", RESEND)
    rows.scatter_(1, places.to(torch.int64), values)

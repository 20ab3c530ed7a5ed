"""Tensors by name as the bytes of a safetensors file, and back, with one copy of the tensors and no more.

The format is a u64 length, that much JSON, and the tensors' bytes (https://huggingface.co/docs/safetensors). The library's
own functions (0.8) take one or two copies more, for which a large model leaves no room; the figures are in
docs/decisions.md.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from runners.jobs.codec_numbers import view
from runners.jobs.in_place import Room

Bytes = bytes | bytearray | memoryview

_LENGTH: Final = struct.Struct("<Q")
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file. Raises a ValueError for a dtype that safetensors has no name for."""
    # Wide numbers first, so that each begins where a number of its kind may.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in ordered:
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name!r} is of {tensor.dtype}, which safetensors doesn't have")
        end = at + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    room = Room(_LENGTH.size + len(text) + at)
    room.memory[: _LENGTH.size] = _LENGTH.pack(len(text))
    room.memory[_LENGTH.size : _LENGTH.size + len(text)] = text
    at = _LENGTH.size + len(text)
    for _, tensor in ordered:
        view(room.memory, tensor.dtype, tensor.numel(), at).view(tensor.shape).copy_(tensor.detach())
        at += tensor.numel() * tensor.dtype.itemsize
    return room.taken()


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Of its bytes, in the file."""
    stop: int

    def of(self, data: Bytes) -> Tensor:
        """The tensor, in new memory."""
        count = math.prod(self.shape)
        return view(bytearray(memoryview(data)[self.start : self.stop]), self.dtype, count, 0).view(self.shape)


def entries_of(data: Bytes) -> dict[str, Entry]:
    """What is in a file, by name: each tensor where the one before ends, and all of its bytes there.

    Raises:
        ValueError: damaged, or none.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        header = json.loads(bytes(memoryview(data)[_LENGTH.size : _LENGTH.size + length]))
        header.pop("__metadata__", None)
        first = _LENGTH.size + length
        found = {
            name: Entry(
                _DTYPES[said["dtype"]],
                tuple(int(size) for size in said["shape"]),
                first + int(said["data_offsets"][0]),
                first + int(said["data_offsets"][1]),
            )
            for name, said in header.items()
        }
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header is none of safetensors ({error!r})") from error
    at = first
    for name, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
        size = math.prod(entry.shape) * entry.dtype.itemsize
        if min(entry.shape, default=1) < 0 or entry.start != at or entry.stop != at + size:
            raise ValueError(f"{name!r} doesn't lie where its header says")
        at = entry.stop
    if at != len(data):
        raise ValueError(f"{len(data)} bytes where its tensors take {at}")
    return found

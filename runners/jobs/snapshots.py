"""Models and anchors on disk and on the wire, as safetensors: what plain torch reads, and nothing that can run code."""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

from runners.jobs.anchor import Anchor, OptimizerState
from runners.jobs.layout import Layout, tensors_of
from runners.jobs.tensor_file import entries_of, to_bytes
from schemas.errors import ShoalError

_FORMAT: Final = "shoal-anchor-2"
# What is not the model's own in a snapshot; plain torch leaves it out.
_OURS: Final = "shoal."
_MOMENTUM: Final = _OURS + "momentum"
_OPTIMIZER: Final = _OURS + "optimizer."


class SnapshotError(ShoalError):
    """A model that can't be stored, or bytes that are no snapshot of ours. Attributes: `problem` (what, in words)."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem


class _About(msgspec.Struct, frozen=True):
    """What a snapshot's header says of the anchor in it."""

    version: int
    digest: str
    layout: Layout
    constants: tuple[str, ...]
    """Names of what no outer step changes."""
    optimizer: str = ""
    """Class of the optimizer whose state is in it, if one is."""
    optimizer_digest: str = ""
    """SHA-256 over that state, which `digest` leaves out."""


def model_to_bytes(model: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """A model such that `model.load_state_dict(safetensors.torch.load(bytes(data)))` reads it in plain torch.

    Tied weights are written under each of their names: the file is larger by them, and a strict `load_state_dict`
    finds all it asks for.

    Raises:
        SnapshotError: the state dict holds something that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise SnapshotError(f"state {name!r} is a {type(value).__name__}", "keep extra state in tensor buffers")
        tensors[name] = value
    return _stored(tensors, {"format": "pt", **(metadata or {})})


def shared_names(model: nn.Module) -> dict[str, str]:
    """The further names of tensors that the model has under several (tied weights), each with the first of them."""
    first = {id(tensor): name for name, tensor in tensors_of(model).items()}
    state = model.state_dict(keep_vars=True)
    return {name: first[id(value)] for name, value in state.items() if first.get(id(value), name) != name}


def snapshot_to_bytes(anchor: Anchor, shared: Mapping[str, str] | None = None) -> bytes:
    """An anchor whole, for newcomers, checkpoints and `resume`: safetensors with version, layout and digest within.

    Its tensors go by the model's own names, and with those of `shared_names` as well it is what a strict `load_state_dict`
    asks for, but for ours: names that begin with `shoal.`, which models from plain torch don't have.
    """
    tensors = {slot.name: slot.of(anchor.values) for slot in anchor.layout.slots}
    tensors.update(anchor.constants)
    tensors.update((name, tensors[first]) for name, first in (shared or {}).items())
    if anchor.momentum is not None:
        tensors[_MOMENTUM] = anchor.momentum
    about = _About(anchor.version, anchor.digest(), anchor.layout, tuple(sorted(anchor.constants)))
    if anchor.optimizer is not None:
        kept = {name: value.contiguous() for name, value in anchor.optimizer.tensors.items()}
        tensors.update((_OPTIMIZER + name, value) for name, value in kept.items())
        state = {"optimizer": anchor.optimizer.kind, "optimizer_digest": _state_digest(kept)}
        about = msgspec.structs.replace(about, **state)
    return _stored(tensors, {"format": _FORMAT, "anchor": msgspec.json.encode(about).decode()})


def snapshot_from_bytes(data: bytes | memoryview) -> Anchor:
    """The anchor that `snapshot_to_bytes` wrote, its digest worked out again and compared.

    Raises:
        SnapshotError: not such a snapshot, cut short, of another format, or with other bits than its digest says.
    """
    about = _about(data)
    try:
        entries = entries_of(data)
    except ValueError as error:
        raise SnapshotError(f"a damaged snapshot ({error})", "fetch it again, or take an older checkpoint") from error
    layout, momentum = about.layout, entries.get(_MOMENTUM)
    wanted = {slot.name: slot.shape for slot in layout.slots}
    found = {name: entries[name].shape for name in wanted if name in entries}
    if (
        found != wanted
        or any(entries[name].dtype != torch.float32 for name in wanted)
        or layout.count != sum(math.prod(shape) for shape in found.values())
        or any(name not in entries for name in about.constants)
        or (momentum is not None and (momentum.shape, momentum.dtype) != ((layout.parameters,), torch.float32))
    ):
        raise SnapshotError("a snapshot whose tensors don't fit its layout", "fetch it from another node")
    values, at = torch.empty(layout.count), 0
    for name in wanted:
        row = entries[name].of(data).view(-1)
        values[at : at + len(row)] = row
        at += len(row)
    constants = {name: entries[name].of(data) for name in about.constants}
    state = {
        name.removeprefix(_OPTIMIZER): entry.of(data) for name, entry in entries.items() if name.startswith(_OPTIMIZER)
    }
    optimizer = OptimizerState(about.optimizer, state) if about.optimizer else None
    moments = momentum.of(data) if momentum is not None else None
    anchor = Anchor(about.version, layout, values, moments, constants, optimizer)
    if anchor.digest() != about.digest or (optimizer is not None and _state_digest(state) != about.optimizer_digest):
        raise SnapshotError(f"a snapshot of version {about.version} with other bits than it says", "fetch it again")
    return anchor


def _stored(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    try:
        return to_bytes(tensors, metadata)
    except ValueError as error:
        raise SnapshotError(str(error), "keep state in tensors of common types") from error


def _state_digest(state: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _about(data: bytes | memoryview) -> _About:
    """Reads our part of the header: safetensors is a u64 length, that much JSON, then the tensors."""
    mend = "resume needs a checkpoint that Shoal wrote; a model.safetensors is not one"
    try:
        (length,) = struct.unpack_from("<Q", data)
        header: Any = json.loads(bytes(data[8 : 8 + length]))
        metadata = header["__metadata__"]
        if metadata["format"] != _FORMAT:
            raise SnapshotError(f"format {metadata['format']!r}, not {_FORMAT!r}", mend)
        return msgspec.json.decode(metadata["anchor"], type=_About)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise SnapshotError(f"not a snapshot of an anchor ({error!r})", mend) from error

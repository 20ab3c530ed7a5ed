"""Models and anchors on disk and on the wire, as safetensors: what plain torch reads, and nothing that can run code."""

import json
import os
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from runners.jobs.anchor import Anchor
from runners.jobs.layout import Layout
from schemas.errors import ShoalError

_FORMAT: Final = "shoal-anchor-1"
_CONSTANT: Final = "constant."


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


def model_to_bytes(model: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """A model such that `model.load_state_dict(safetensors.torch.load(data))` reads it in plain torch.

    Tied weights are written under each of their names: the file is larger by them, and a strict `load_state_dict`
    finds all it asks for.

    Raises:
        SnapshotError: the state dict holds something that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise SnapshotError(f"state {name!r} is a {type(value).__name__}", "keep extra state in tensor buffers")
        # A copy each: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    return safetensors.torch.save(tensors, {"format": "pt", **(metadata or {})})


def save_model(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes `model_to_bytes` to a file, which appears whole or not at all.

    Raises:
        SnapshotError: as `model_to_bytes`.
        OSError: the directory can't be made or written.
    """
    write_atomically(path, model_to_bytes(model, metadata))


def snapshot_to_bytes(anchor: Anchor) -> bytes:
    """An anchor whole, for newcomers, checkpoints and `resume`: safetensors with version, layout and digest within."""
    tensors = {"values": anchor.values}
    if anchor.momentum is not None:
        tensors["momentum"] = anchor.momentum
    tensors.update((_CONSTANT + name, value.contiguous()) for name, value in anchor.constants.items())
    about = msgspec.json.encode(_About(anchor.version, anchor.digest(), anchor.layout)).decode()
    return safetensors.torch.save(tensors, {"format": _FORMAT, "anchor": about})


def snapshot_from_bytes(data: bytes) -> Anchor:
    """The anchor that `snapshot_to_bytes` wrote, its digest worked out again and compared.

    Raises:
        SnapshotError: not such a snapshot, cut short, of another format, or with other bits than its digest says.
    """
    about = _about(data)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise SnapshotError(f"a damaged snapshot ({error})", "fetch it again, or take an older checkpoint") from error
    values, momentum = tensors.get("values"), tensors.get("momentum")
    layout = about.layout
    if (
        values is None
        or (values.shape, values.dtype) != ((layout.count,), torch.float32)
        or (momentum is not None and (momentum.shape, momentum.dtype) != ((layout.parameters,), torch.float32))
    ):
        raise SnapshotError("a snapshot whose tensors don't fit its layout", "fetch it from another node")
    constants = {
        name.removeprefix(_CONSTANT): value for name, value in sorted(tensors.items()) if name.startswith(_CONSTANT)
    }
    anchor = Anchor(about.version, layout, values, momentum, constants)
    if anchor.digest() != about.digest:
        raise SnapshotError(f"a snapshot of version {about.version} with other bits than it says", "fetch it again")
    return anchor


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file by way of a temporary one beside it: whoever reads `path` sees the old bytes or all of the new.

    Raises:
        OSError: the directory can't be made or written, or the disk is full; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`, whose files have mode 0600: a model should be as readable as any other file of the user's.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _about(data: bytes) -> _About:
    """Reads our part of the header: safetensors is a u64 length, that much JSON, then the tensors."""
    mend = "resume needs a checkpoint that Shoal wrote; a model.safetensors is not one"
    try:
        (length,) = struct.unpack_from("<Q", data)
        header: Any = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        if metadata["format"] != _FORMAT:
            raise SnapshotError(f"format {metadata['format']!r}, not {_FORMAT!r}", mend)
        return msgspec.json.decode(metadata["anchor"], type=_About)
    except (struct.error, ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise SnapshotError(f"not a snapshot of an anchor ({error!r})", mend) from error

"""Models load in plain torch, tied weights included; snapshots come back bit by bit or not at all."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from runners.jobs.anchor import Anchor
from runners.jobs.moving import outer_step
from runners.jobs.snapshots import (
    SnapshotError,
    model_to_bytes,
    shared_names,
    snapshot_from_bytes,
    snapshot_to_bytes,
)
from runners.jobs.tensor_file import entries_of, to_bytes


class Tied(nn.Module):
    """An embedding that is also the output layer, and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.norm = nn.Embedding(7, 4), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.token.weight


PLAIN_TORCH = """
import sys, torch, safetensors.torch
from torch import nn
token, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
head.weight = token.weight
model = nn.ModuleDict({"token": token, "norm": nn.BatchNorm1d(4), "head": head})
print(model.load_state_dict(safetensors.torch.load_file(sys.argv[1])), float(model["head"].weight.detach().sum()))
assert model["head"].weight is model["token"].weight
assert "runners" not in sys.modules
"""


def test_a_model_with_tied_weights_loads_in_plain_torch(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "model.safetensors"
    path.write_bytes(model_to_bytes(model, {"round": "25"}))
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_TORCH, str(path)], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert "All keys matched" in done.stdout
    assert float(done.stdout.split()[-1]) == pytest.approx(float(model.head.weight.detach().sum()))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "round": "25"}


def test_views_of_one_tensor_are_stored_too() -> None:
    model = nn.Linear(2, 2)
    base = torch.arange(6.0)
    model.register_buffer("first", base[:4].view(2, 2).t())
    model.register_buffer("second", base[2:])
    loaded = safetensors.torch.load(model_to_bytes(model))
    assert loaded["first"].tolist() == [[0.0, 2.0], [1.0, 3.0]]
    assert loaded["second"].tolist() == [2.0, 3.0, 4.0, 5.0]


class WithExtraState(nn.Linear):
    """State that is no tensor."""

    def get_extra_state(self) -> object:
        return {"a": 1}


def test_state_that_is_no_tensor_is_named() -> None:
    with pytest.raises(SnapshotError, match="'_extra_state' is a dict"):
        model_to_bytes(WithExtraState(2, 2))


def test_a_checkpoint_goes_on_in_plain_torch_and_in_a_job(tmp_path: Path) -> None:
    for number, anchor in enumerate(anchors()):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(snapshot_to_bytes(anchor, shared_names(Tied())))
        state = safetensors.torch.load_file(path)
        ours = {name for name in state if name.startswith("shoal.")}
        assert ours == (set() if anchor.momentum is None else {"shoal.momentum"})
        model = Tied()
        assert (
            str(model.load_state_dict({n: t for n, t in state.items() if n not in ours}))
            == "<All keys matched successfully>"
        )
        assert torch.equal(Anchor.from_model(model).values, anchor.values)
        assert snapshot_from_bytes(path.read_bytes()).digest() == anchor.digest()


def test_the_further_names_of_shared_tensors_are_found() -> None:
    class Buffers(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.norm.running_var = self.norm.running_mean

    assert shared_names(Buffers()) == {"head.weight": "token.weight", "norm.running_var": "norm.running_mean"}
    assert shared_names(nn.Linear(2, 2)) == {}


def anchors() -> list[Anchor]:
    start = Anchor.from_model(Tied())
    delta = torch.linspace(-1, 1, start.layout.count)
    return [start, outer_step(start, delta), outer_step(start, delta, "nesterov", lr=0.7, momentum=0.9)]


@pytest.mark.parametrize("which", range(3))
def test_a_snapshot_is_the_anchor_bit_by_bit(which: int) -> None:
    anchor = anchors()[which]
    back = snapshot_from_bytes(snapshot_to_bytes(anchor))
    assert back.digest() == anchor.digest()
    assert back.layout == anchor.layout
    assert back.version == anchor.version
    fresh = Tied()
    back.load_into(fresh, constants=True)
    assert torch.equal(fresh.head.weight.detach().reshape(-1), anchor.values[:28])
    delta = torch.ones(anchor.layout.count)
    assert outer_step(back, delta, "nesterov").digest() == outer_step(anchor, delta, "nesterov").digest()


def test_damage_anywhere_is_found() -> None:
    anchor = anchors()[2]
    data = snapshot_to_bytes(anchor)
    for place in (len(data) - 1, len(data) - 90, len(data) - 4 * anchor.layout.count):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(SnapshotError, match="other bits"):
            snapshot_from_bytes(bytes(damaged))


def altered(data: bytes, changes: dict[str, torch.Tensor | None]) -> bytes:
    """A snapshot with other tensors under the same description."""
    header = json.loads(data[8 : 8 + struct.unpack_from("<Q", data)[0]])
    tensors = safetensors.torch.load(data) | changes
    return safetensors.torch.save({n: t for n, t in tensors.items() if t is not None}, header["__metadata__"])


def test_what_is_no_snapshot_is_refused() -> None:
    anchor = anchors()[1]
    data = snapshot_to_bytes(anchor)
    model = safetensors.torch.save({"w": torch.ones(1)}, {"format": "pt"})
    with_another_shape = altered(data, {"norm.weight": torch.ones(5)})
    cases = {
        b"": "not a snapshot",
        b"\xff" * 40: "not a snapshot",
        model: "format 'pt'",
        data[:-3]: "damaged",
        data[:200]: "not a snapshot",
        with_another_shape: "don't fit",
        altered(data, {"norm.num_batches_tracked": None}): "don't fit",
        altered(data, {"token.weight": torch.zeros(7, 4, dtype=torch.float16)}): "don't fit",
        altered(data, {"token.weight": torch.zeros(7, 4)}): "other bits",
    }
    for wrong, problem in cases.items():
        with pytest.raises(SnapshotError, match=problem):
            snapshot_from_bytes(wrong)


def test_files_are_those_of_the_library() -> None:
    tensors = {
        "a": torch.arange(5, dtype=torch.uint8),
        "b": torch.randn(3, 2).t(),
        "c": torch.tensor(7),
        "d": torch.zeros(0, 3, dtype=torch.bfloat16),
        "e": torch.tensor([True, False]),
        "f": torch.randn(3).to(torch.float16),
    }
    data = to_bytes(tensors, {"about": "äöü"})
    assert safetensors.torch.load(data).keys() == tensors.keys()
    stored = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        for found in (
            safetensors.torch.load(data)[name],
            entries_of(data)[name].of(data),
            entries_of(stored)[name].of(stored),
        ):
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F3", "shape": [2], "data_offsets": [0, 8]}},
        {"a": 3},
        ["a"],
    ],
    ids=str,
)
def test_files_whose_tensors_lie_elsewhere_are_damaged(header: object) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match=r"lie where|header is none"):
        entries_of(struct.pack("<Q", len(text)) + text + bytes(8))

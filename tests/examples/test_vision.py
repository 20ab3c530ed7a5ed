"""The vision example learns scikit-learn's digits, reads MNIST's own files, and says what is wrong with bad ones."""

import gzip
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.vision import NoData, Vision, read_idx
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.workload import bind


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHOAL_MNIST", raising=False)


def idx(values: Tensor) -> bytes:
    shape = struct.pack(f">{values.dim()}I", *values.shape)
    return bytes([0, 0, 8, values.dim()]) + shape + values.to(torch.uint8).numpy().tobytes()


def write_mnist(directory: Path, images: str = "-images-idx3-ubyte", labels: str = "-labels-idx1-ubyte") -> None:
    """Forty images for training and ten for validation, all of one grey, which is the digit."""
    directory.mkdir()
    for part, count in (("train", 40), ("t10k", 10)):
        digits = torch.arange(count) % 10
        grey = digits.view(-1, 1, 1).expand(-1, 28, 28)
        for name, values in ((part + images, grey), (part + labels, digits)):
            data = idx(values)
            (directory / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def test_digits_of_28_by_28_pixels_are_learned() -> None:
    trainer = LocalTrainer(bind(Vision(), "vision"), seed=0, node="a", device=torch.device("cpu"))
    pixels, _ = trainer.dataset[0]
    assert (tuple(pixels.shape), pixels.dtype, len(trainer.dataset)) == ((28, 28), torch.uint8, 1437)
    before = trainer.validate()
    for _ in range(50):
        trainer.step(32)
    assert before > 2.2
    assert trainer.validate() < 0.7


def test_held_out_images_are_not_trained_on() -> None:
    held_out, trained = ({row.numpy().tobytes() for row in Vision().samples(s).tensors[0]} for s in ("validation", "train"))
    assert len(held_out) == 360
    assert not held_out & trained


@pytest.mark.parametrize(
    "names", [(), ("-images-idx3-ubyte.gz", "-labels-idx1-ubyte.gz"), ("-images.idx3-ubyte", "-labels.idx1-ubyte")]
)
@pytest.mark.parametrize("by_variable", [True, False])
def test_mnist_is_read_where_there_is_some(by_variable: bool, names: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(Path("elsewhere" if by_variable else "mnist"), *names)
    if by_variable:
        monkeypatch.setenv("SHOAL_MNIST", "elsewhere")
    vision = Vision()
    images, digits = vision.samples("train").tensors
    assert tuple(images.shape) == (40, 28, 28)
    assert torch.equal(images[:, 5, 20].long(), digits)
    assert digits.tolist() == [i % 10 for i in range(40)]
    assert len(vision.samples("validation")) == 10
    with torch.no_grad():
        assert vision.validate(vision.model()) > 0


def test_an_idx_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    values = torch.arange(24).view(2, 3, 4)
    (tmp_path / "f").write_bytes(idx(values))
    assert torch.equal(read_idx(tmp_path / "f").long(), values)


def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, path = idx(torch.zeros(3, 28, 28)), tmp_path / "f"
    cases = {
        good[:-1]: "cut short",
        good[:7]: "cut short",
        b"": "begins with nothing",
        b"<html>Not found": "no idx file",
        b"\0\0\x0d\x01" + bytes(8): "no idx file",
    }
    for data, problem in cases.items():
        path.write_bytes(data)
        with pytest.raises(NoData, match=problem):
            read_idx(path)
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(torch.zeros(39)))
    with pytest.raises(NoData, match="don't go together"):
        Vision().samples("train")
    monkeypatch.setenv("SHOAL_MNIST", str(tmp_path / "nowhere"))
    with pytest.raises(NoData, match=r"no train-images-idx3-ubyte .* in .*nowhere: put MNIST's four files there"):
        Vision().samples("train")


def test_without_scikit_learn_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(NoData, match=r"pip install scikit-learn .* SHOAL_MNIST"):
        Vision().samples("train")

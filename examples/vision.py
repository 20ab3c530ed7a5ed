"""A small convolutional network on images of 28 by 28 pixels: MNIST from your own files, else scikit-learn's digits.

MNIST's four `idx` files (train-images-idx3-ubyte and so on, as they are or with .gz) are looked for in the directory that
`SHOAL_MNIST` names, else in `mnist/` under the working directory. All nodes must have the same files, or none of them any.
"""

import gzip
import os
import struct
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import TensorDataset

DIRECTORY = "SHOAL_MNIST"  # environment variable
FILES = {"train": "train", "validation": "t10k"}  # MNIST's own names of its two parts
HELD_OUT = 360  # of scikit-learn's 1,797 digits; MNIST brings 10,000 images of its own for validation
VALIDATED = 2_000  # images at most: a validation takes half a second
UNSIGNED_BYTES = 0x08  # the only type of number that MNIST has; the format is told at the end of its web page


class NoData(Exception):
    """Images are not where they should be, or not what they should be."""


def read_idx(path: Path) -> Tensor:
    """An idx file of bytes: two zeros, the type, the number of dimensions, each size as a big-endian u32, the numbers."""
    packed = path.read_bytes()
    data = gzip.decompress(packed) if path.suffix == ".gz" else packed
    if len(data) < 4 or data[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise NoData(f"{path} is no idx file of bytes: it begins with {data[:4].hex(' ') or 'nothing'}")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    shape = struct.unpack_from(f">{dimensions}I", data, 4) if len(data) >= start else ()
    if len(data) < start or len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise NoData(f"{path} is cut short: {len(data)} bytes don't make {shape or 'a header'}; fetch it again")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def mnist_file(directory: Path, name: str) -> Path:
    """A file of MNIST under one of the names that it goes by."""
    names = [f"{name}{ending}" for ending in ("", ".gz")]
    names += [f"{name.replace('-idx', '.idx')}{ending}" for ending in ("", ".gz")]  # as some archives spell it
    found = next((directory / each for each in names if (directory / each).is_file()), None)
    if found is None:
        raise NoData(f"no {name} (or {name}.gz) in {directory}: put MNIST's four files there, or unset {DIRECTORY}")
    return found


def mnist(directory: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images as bytes, shape (n, 28, 28), and digits, shape (n,)."""
    part = FILES[split]
    images = read_idx(mnist_file(directory, f"{part}-images-idx3-ubyte"))
    digits = read_idx(mnist_file(directory, f"{part}-labels-idx1-ubyte"))
    if images.dim() != 3 or digits.shape != images.shape[:1]:
        raise NoData(f"{tuple(images.shape)} images and {tuple(digits.shape)} labels in {directory} don't go together")
    return images, digits.long()


def small_digits(split: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits of 8 by 8 pixels, enlarged, in MNIST's form and in a fixed random order."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise NoData(f"pip install scikit-learn for its digits, or name a directory with MNIST in {DIRECTORY}") from error
    pixels, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(1))
    order = order[:HELD_OUT] if split == "validation" else order[HELD_OUT:]
    small = torch.tensor(pixels, dtype=torch.float32)[order].view(-1, 1, 8, 8) * (255 / 16)
    large = interpolate(small, size=28, mode="bilinear").round().byte()
    return large[:, 0], torch.tensor(digits)[order]


class Vision:
    """The workload: what Shoal asks for."""

    @cached_property
    def directory(self) -> Path | None:
        """Where MNIST is; None for scikit-learn's digits."""
        if name := os.environ.get(DIRECTORY):
            return Path(name)
        return Path("mnist") if Path("mnist").is_dir() else None

    def model(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def samples(self, split: str) -> TensorDataset:
        images, digits = mnist(self.directory, split) if self.directory else small_digits(split)
        return TensorDataset(images, digits)

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        images, digits = batch
        return cross_entropy(model(images.unsqueeze(1) / 255), digits)

    @cached_property
    def held_out(self) -> list[Tensor]:
        return [tensor[:VALIDATED] for tensor in self.samples("validation").tensors]

    def validate(self, model: nn.Module) -> float:
        device = next(model.parameters()).device
        return float(self.loss(model, [tensor.to(device) for tensor in self.held_out]))


workload = Vision()

"""Handwritten digits: scikit-learn's 1,797 images of 8 by 8 pixels, and a small network. Learns in seconds on any CPU.

The smallest workload there is: a model, data, a loss, a validation. The optimizer is Shoal's default (AdamW, 1e-3).
"""

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

try:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("examples.digits needs scikit-learn: pip install scikit-learn", name="sklearn") from error

HELD_OUT = 360  # a fifth


class Digits:
    """The workload: what Shoal asks for."""

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Pixels from 0 to 1, shape (1797, 64), and digits, shape (1797,), in a fixed random order."""
        pixels, digits = load_digits(return_X_y=True)
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(1))
        return torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(digits)[order]

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def samples(self, split: str) -> TensorDataset:
        part = slice(HELD_OUT) if split == "validation" else slice(HELD_OUT, None)
        return TensorDataset(*(tensor[part] for tensor in self.data))

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        pixels, digits = batch
        return cross_entropy(model(pixels), digits)

    def validate(self, model: nn.Module) -> float:
        device = next(model.parameters()).device
        return float(self.loss(model, [tensor.to(device) for tensor in self.samples("validation").tensors]))


workload = Digits()

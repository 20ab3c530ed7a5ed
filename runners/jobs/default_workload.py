"""What a fleet is measured with where no job is named: a network of a million parameters on random numbers.

Some 2 MFLOP a sample and pass, between the digits' network and a small language model; it needs nothing but torch.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

INPUTS, WIDTH, CLASSES = 256, 768, 16
SAMPLES = 512


class Random:
    """The workload: see `runners.jobs.workload`."""

    def model(self) -> nn.Module:
        """A multilayer perceptron of 0.8 million parameters."""
        return nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
        )

    def samples(self, split: str) -> TensorDataset:
        """Random inputs and labels, always the same."""
        rng = torch.Generator().manual_seed(len(split))
        return TensorDataset(torch.randn(SAMPLES, INPUTS, generator=rng), torch.randint(CLASSES, (SAMPLES,), generator=rng))

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        """Cross entropy."""
        inputs, labels = batch
        return cross_entropy(model(inputs), labels)

    def validate(self, model: nn.Module) -> float:
        """Of the held-out samples."""
        device = next(model.parameters()).device
        return float(self.loss(model, [tensor.to(device) for tensor in self.samples("validation").tensors]))


workload = Random()

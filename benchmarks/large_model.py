"""A model of 25 million parameters whose steps cost little: what memory is measured with."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

WIDTH, LAYERS = 1024, 24


class LargeModel:
    """The workload: what Shoal asks for."""

    def model(self) -> nn.Module:
        return nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))

    def samples(self, split: str) -> TensorDataset:
        return TensorDataset(torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(len(split))))

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return mse_loss(model(batch[0]), batch[0].tanh())

    def validate(self, model: nn.Module) -> float:
        return float(self.loss(model, [self.samples("validation").tensors[0]]))


workload = LargeModel()

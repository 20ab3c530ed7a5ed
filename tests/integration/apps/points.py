"""Four clouds of points, told apart by a small network: a workload whose steps take about a millisecond."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

CLOUDS, DIMENSIONS = 4, 16
SIZES = {"train": 2048, "validation": 256}


class Points:
    """As a user would write it."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(DIMENSIONS, 32), nn.Tanh(), nn.Linear(32, CLOUDS))

    def samples(self, split: str) -> TensorDataset:
        centres = torch.randn(CLOUDS, DIMENSIONS, generator=torch.Generator().manual_seed(0))
        own = torch.Generator().manual_seed(len(split))
        labels = torch.randint(CLOUDS, (SIZES[split],), generator=own)
        return TensorDataset(centres[labels] + torch.randn(SIZES[split], DIMENSIONS, generator=own), labels)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def validate(self, model: nn.Module) -> float:
        points, labels = self.samples("validation").tensors
        return float(cross_entropy(model(points), labels))


workload = Points()

"""The tasks as workloads of Shoal, and a vector to average."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.tasks import TASKS, VECTOR, Batch, Task, loss_of


class TaskWorkload:
    """A task in Shoal's words."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._data: Any = None

    @property
    def data(self) -> Any:
        """Loaded once."""
        if self._data is None:
            self._data = self.task.data()
        return self._data

    def model(self) -> nn.Module:
        """The job's seed gives the same parameters as the peers'."""
        return self.task.model()

    def samples(self, split: str) -> range:
        """Positions in the training data; `collate` makes batches of them."""
        return range(len(self.data))

    def collate(self, indices: list[int]) -> Batch:
        """A batch of such positions."""
        batch: Batch = self.data.batch(indices)
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross entropy."""
        return loss_of(model(batch[0]), batch[1])

    def validate(self, model: nn.Module) -> float:
        """The peers' held-out loss."""
        x, y = self.data.held_out
        return loss_of(model(x), y).item()

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The peers' optimizer."""
        return self.task.optimizer(parameters)


class VectorModel(nn.Module):
    """25 MB that are moved a little."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(VECTOR))


class VectorWorkload:
    """Averages a vector: next to nothing is computed."""

    def model(self) -> nn.Module:
        """Random numbers: what is sent can't be compressed by chance."""
        return VectorModel()

    def samples(self, split: str) -> range:
        """Seeds of noise."""
        return range(1 << 20)

    def collate(self, seeds: list[int]) -> int:
        """One of them."""
        return seeds[0]

    def loss(self, model: VectorModel, batch: int) -> Tensor:
        """Its gradient is noise, other noise on every node."""
        noise = torch.randn(VECTOR, generator=torch.Generator().manual_seed(batch))
        return (model.vector * noise).mean()

    def validate(self, model: VectorModel) -> float:
        """Nothing to be told."""
        return float(model.vector[0])

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Without state."""
        return torch.optim.SGD(parameters, lr=1.0)


gpt = TaskWorkload(TASKS["gpt"])
digits = TaskWorkload(TASKS["digits"])
vector = VectorWorkload()

"""Workloads that go wrong, each in a way of its own."""

import itertools
import threading

import numpy as np
from points import Points
from torch import Tensor, nn

MORE_THAN_THERE_IS = 1 << 50  # float64: eight pebibytes, beyond any address space


class Raises(Points):
    """At its third step."""

    def __init__(self) -> None:
        self.steps = itertools.count(1)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if next(self.steps) == 3:
            raise ValueError("the third batch is spoilt")
        return super().loss(model, batch)


class EatsMemory(Points):
    """More than there is."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        np.ones(MORE_THAN_THERE_IS)
        return super().loss(model, batch)


class Hangs(Points):
    """In its first step, alive but not working: it waits for what nobody will ever say."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        threading.Event().wait()
        return super().loss(model, batch)


class Narrow(Points):
    """Has memory for two samples at once, and prints at each validation."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if len(batch[0]) > 2:
            np.ones(MORE_THAN_THERE_IS)
        return super().loss(model, batch)

    def validate(self, model: nn.Module) -> float:
        loss = super().validate(model)
        print(f"validated, and the loss is {loss:.3f}")
        return loss


raises, eats_memory, hangs, narrow = Raises, EatsMemory, Hangs, Narrow

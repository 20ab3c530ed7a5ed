"""A language model so small that a step takes milliseconds: a transformer on the bytes of the standard library's sources.

For fleets whose machines and links are simulated, as `benchmarks.small_model`, on which seldom averaging costs next to
nothing; language models lose more by it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.small_model import Problem, Vector
from benchmarks.training.tasks import ByteGpt, Windows, loss_of

WIDTH, LAYERS, HEADS = 32, 2, 2
BYTES = 32  # of a sample
HELD_OUT = 64  # windows of twice as many bytes


class Language(Problem):
    """The problem: 37,000 parameters."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._data = Windows()
        self.samples = len(self._data)
        self._model = ByteGpt(WIDTH, LAYERS, HEADS)
        held_x, held_y = self._data.held_out
        self._held_out = held_x.reshape(-1, BYTES), held_y.reshape(-1, BYTES)

    def start(self, seed: int) -> Vector:
        """Parameters to begin with."""
        torch.manual_seed(seed)
        return _as_vector(parameters_to_vector(ByteGpt(WIDTH, LAYERS, HEADS).parameters()))

    def gradient(self, parameters: Vector, of: NDArray[np.int64]) -> tuple[Vector, float]:
        """Of the mean cross-entropy over these samples, and that."""
        self._hold(parameters)
        x, y = self._data.batch(of)
        loss = loss_of(self._model(x[:, :BYTES]), y[:, :BYTES])
        gradients = torch.autograd.grad(loss, list(self._model.parameters()))
        return _as_vector(parameters_to_vector(gradients)), loss.item()

    def held_out(self, parameters: Vector) -> float:
        """Mean cross-entropy over text that nobody trains on."""
        self._hold(parameters)
        x, y = self._held_out
        with torch.no_grad():
            return loss_of(self._model(x), y).item()

    def _hold(self, parameters: Vector) -> None:
        vector_to_parameters(torch.from_numpy(parameters).float(), self._model.parameters())


def _as_vector(tensor: torch.Tensor) -> Vector:
    made: Vector = tensor.detach().double().numpy()
    return made

"""A model so small that a step takes some 20 us: handwritten digits (scikit-learn's), one hidden layer, in numpy.

It lets a whole fleet train for real, real samples, real gradients and real differences, while its machines and links are
simulated in virtual time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

Vector = NDArray[np.float64]
INPUTS, HIDDEN, CLASSES = 64, 32, 10
SHAPES = ((INPUTS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
HELD_OUT = 297  # of 1797 samples


@dataclass(frozen=True)
class Optimizer:
    """What a step makes of a gradient."""

    rate: float
    adam: bool = False


class Local:
    """A node's own optimizer and its walk through the samples."""

    def __init__(self, optimizer: Optimizer, seed: int) -> None:
        self.optimizer = optimizer
        self._rng = np.random.default_rng(seed)
        self._first: Vector | None = None
        self._second: Vector | None = None
        self._steps = 0

    def sample(self, count: int, of: int) -> NDArray[np.int64]:
        """Indices of a step's samples."""
        return self._rng.integers(0, of, count)

    def change(self, gradient: Vector) -> Vector:
        """What is added to the parameters: SGD's step, or Adam's (Kingma and Ba, 2015) with its usual constants."""
        if not self.optimizer.adam:
            return -self.optimizer.rate * gradient
        self._steps += 1
        first = np.zeros_like(gradient) if self._first is None else self._first
        second = np.zeros_like(gradient) if self._second is None else self._second
        self._first = 0.9 * first + 0.1 * gradient
        self._second = 0.999 * second + 0.001 * gradient**2
        upright = self._first / (1 - 0.9**self._steps)
        size = np.sqrt(self._second / (1 - 0.999**self._steps)) + 1e-8
        change: Vector = -self.optimizer.rate * upright / size
        return change


class Problem(ABC):
    """What a fleet learns: parameters are one flat vector."""

    samples: int
    """To train on."""

    @abstractmethod
    def start(self, seed: int) -> Vector:
        """Parameters to begin with."""

    @abstractmethod
    def gradient(self, parameters: Vector, of: NDArray[np.int64]) -> tuple[Vector, float]:
        """Of the mean cross-entropy over these samples, and that."""

    @abstractmethod
    def held_out(self, parameters: Vector) -> float:
        """Mean cross-entropy over the samples that nobody trains on."""

    def steps(self, parameters: Vector, local: Local, steps: int, microbatch: int) -> tuple[Vector, float]:
        """The difference that so many local steps make, and their mean loss."""
        working, losses = parameters.copy(), 0.0
        for _ in range(steps):
            gradient, loss = self.gradient(working, local.sample(microbatch, self.samples))
            working += local.change(gradient)
            losses += loss
        return working - parameters, losses / steps


class Digits(Problem):
    """Handwritten digits and one hidden layer."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(images))
        pixels, labels = images[order] / 16.0, labels[order]
        self._x, self._y = pixels[HELD_OUT:], labels[HELD_OUT:]
        self._held_x, self._held_y = pixels[:HELD_OUT], labels[:HELD_OUT]
        self.samples = len(self._x)

    def start(self, seed: int) -> Vector:
        """Parameters to begin with."""
        rng = np.random.default_rng(seed)
        parts = [rng.normal(0, (2 / shape[0]) ** 0.5 if len(shape) > 1 else 0.0, shape).ravel() for shape in SHAPES]
        return np.concatenate(parts)

    def gradient(self, parameters: Vector, of: NDArray[np.int64]) -> tuple[Vector, float]:
        """Of the mean cross-entropy over these samples, and that."""
        x, y = self._x[of], self._y[of]
        w1, b1, w2, b2 = _parts(parameters)
        hidden = np.maximum(x @ w1 + b1, 0.0)
        odds = _softmax(hidden @ w2 + b2)
        rows = np.arange(len(y))
        loss = float(-np.log(odds[rows, y] + 1e-12).mean())
        odds[rows, y] -= 1.0
        odds /= len(y)
        back = odds @ w2.T
        back[hidden <= 0.0] = 0.0
        return np.concatenate(((x.T @ back).ravel(), back.sum(0), (hidden.T @ odds).ravel(), odds.sum(0))), loss

    def held_out(self, parameters: Vector) -> float:
        """Mean cross-entropy over the samples that nobody trains on."""
        w1, b1, w2, b2 = _parts(parameters)
        odds = _softmax(np.maximum(self._held_x @ w1 + b1, 0.0) @ w2 + b2)
        return float(-np.log(odds[np.arange(len(self._held_y)), self._held_y] + 1e-12).mean())


def _parts(parameters: Vector) -> list[Vector]:
    parts, at = [], 0
    for shape in SHAPES:
        size = int(np.prod(shape))
        parts.append(parameters[at : at + size].reshape(shape))
        at += size
    return parts


def _softmax(values: Vector) -> Vector:
    powers: Vector = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)

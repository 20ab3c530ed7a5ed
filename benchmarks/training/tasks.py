"""What everybody trains: two models with their data, optimizer and held-out loss. Needs nothing but torch and numpy.

The peers run it in virtual environments of their own, where Shoal isn't; `workloads.py` offers the same to Shoal.
"""

import os
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

CACHE = Path(os.environ.get("PEERS_DIR") or Path.home() / ".cache" / "shoal-peers")
"""Where the peers' virtual environments, the text and the runs' logs are."""

CONTEXT = 128  # bytes
WORKERS = 4
HELD_OUT_WINDOWS = 24  # a second of one core would be too much: it is validated every few steps
HELD_OUT_DIGITS = 360  # a fifth
VECTOR = 6_250_000  # float32: 25 MB, of averaging alone
LEFT_OUT = ("/test/", "/tests/", "site-packages", "idlelib", "lib2to3")

Batch = tuple[Tensor, Tensor]


class Perceptron(nn.Module):
    """84,000 parameters (340 kB) on 8 x 8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten digits."""
        out: Tensor = self.net(x)
        return out


class Block(nn.Module):
    """A layer of the transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the perceptron."""
        batch, length, width = x.shape
        parts = self.qkv(self.ln1(x)).chunk(3, -1)
        q, k, v = (part.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.down(functional.gelu(self.up(self.ln2(x))))
        return out


class ByteGpt(nn.Module):
    """1.06 million parameters (4.2 MB) on bytes."""

    def __init__(self, width: int = 144, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next byte."""
        hidden = self.tok(x) + self.pos.weight[: x.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return functional.linear(self.ln(hidden), self.tok.weight)


def text() -> NDArray[np.uint8]:
    """The standard library's sources, joined; 95 % are trained on."""
    path = CACHE / "data" / "stdlib.bin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        root = Path(sysconfig.get_paths()["stdlib"])
        names = sorted(str(p) for p in root.rglob("*.py") if not any(part in str(p) for part in LEFT_OUT))
        made = path.with_suffix(f".{os.getpid()}")
        with made.open("wb") as file:
            for name in names:
                file.write(Path(name).read_bytes() + b"\n")
        made.replace(path)
    return np.memmap(path, dtype=np.uint8, mode="r")


class Windows:
    """Training text: sample i is the window that begins at byte i."""

    def __init__(self) -> None:
        whole = text()
        self.text = whole[: int(len(whole) * 0.95)]
        held_out = whole[int(len(whole) * 0.95) :]
        starts = np.random.default_rng(7).integers(0, len(held_out) - CONTEXT - 1, HELD_OUT_WINDOWS)
        self.held_out = _windows(held_out, starts)

    def __len__(self) -> int:
        return len(self.text) - CONTEXT

    def batch(self, indices: Iterable[int]) -> Batch:
        """Windows and the bytes that follow each of theirs."""
        return _windows(self.text, indices)

    def draw(self, seed: int, worker: int, step: int, size: int) -> Batch:
        """A worker's batch: from its own quarter of the text, the same on every machine."""
        random = np.random.default_rng([seed, worker, step])
        low, high = (len(self.text) * (worker % WORKERS + one) // WORKERS for one in (0, 1))
        return self.batch(random.integers(low, high - CONTEXT - 1, size))


class Digits:
    """Training digits: sample i is a picture and its label."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        data = load_digits()
        order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(1))
        x, y = torch.tensor(data.data / 16, dtype=torch.float32)[order], torch.tensor(data.target)[order]
        self.held_out = x[:HELD_OUT_DIGITS], y[:HELD_OUT_DIGITS]
        self.x, self.y = x[HELD_OUT_DIGITS:], y[HELD_OUT_DIGITS:]

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Iterable[int]) -> Batch:
        """Pictures and labels."""
        chosen = torch.as_tensor(list(indices))
        return self.x[chosen], self.y[chosen]

    def draw(self, seed: int, worker: int, step: int, size: int) -> Batch:
        """A worker's batch: every fourth digit is its own, the same on every machine."""
        random = np.random.default_rng([seed, worker, step])
        return self.batch(int(i) * WORKERS + worker % WORKERS for i in random.integers(0, len(self.x) // WORKERS, size))


@dataclass(frozen=True)
class Task:
    """A model, its data and how it is trained."""

    model: Callable[[], nn.Module]
    data: Callable[[], Windows | Digits]
    batch: int
    """Samples a step of a worker."""
    step_ms: float
    """What such a step is padded to: some five times what it costs, so that four workers fit on two cores."""
    target: float
    """Held-out loss at which the clock stops."""
    local_steps: int
    """Steps between averages, for peers that have to be told."""
    learning_rate: float = 1e-3

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.01)


TASKS = {
    "gpt": Task(model=ByteGpt, data=Windows, batch=4, step_ms=200.0, target=2.6, local_steps=20),
    "digits": Task(model=Perceptron, data=Digits, batch=32, step_ms=25.0, target=0.2, local_steps=10),
}


def loss_of(scores: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross entropy, in nats."""
    return functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), wanted.reshape(-1))


def _windows(source: NDArray[np.uint8], starts: Iterable[int]) -> Batch:
    rows = torch.from_numpy(np.stack([source[i : i + CONTEXT + 1] for i in starts]).astype(np.int64))
    return rows[:, :-1], rows[:, 1:]

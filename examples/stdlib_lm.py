"""A byte-level GPT of 1.06 M parameters that learns to write Python from the standard library's own sources.

Nothing to download: every Python has the text. Copy this file, put your own model and data into it, and submit it as
`your_module:workload`.
"""

import sysconfig
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

WIDTH, LAYERS, HEADS, CONTEXT = 144, 4, 4, 128
BYTES = 256  # the vocabulary
NOT_LIBRARY = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
VALIDATION_WINDOWS = 32  # 4,096 predicted bytes


def read_library() -> tuple[bytes, bytes]:
    """The library's sources for training and validation: every twentieth file, in order of its path, is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name not in NOT_LIBRARY)]
    files = sorted({path for folder in folders for path in folder.glob("*.py" if folder == root else "**/*.py")})
    texts = [path.read_bytes() for path in files if not NOT_LIBRARY & set(path.relative_to(root).parts)]
    if not texts:
        raise FileNotFoundError(f"no sources in {root}: this Python carries its library compiled or zipped")
    return b"\n".join(text for i, text in enumerate(texts) if i % 20), b"\n".join(texts[::20])


class Windows:
    """Every window of CONTEXT bytes of a text, with the bytes that follow; a map-style dataset."""

    def __init__(self, text: bytes) -> None:
        self.text = np.frombuffer(text, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.text) - CONTEXT

    def __getitem__(self, start: int) -> Tensor:
        return torch.from_numpy(self.text[start : start + CONTEXT + 1].astype(np.int64))


class Block(nn.Module):
    """Attention over what came before, then a small network, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.query_key_value(self.attention_norm(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class GPT(nn.Module):
    """A decoder; input and output share one embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(BYTES, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BYTES, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


class StdlibLM:
    """The workload: what Shoal asks for."""

    @cached_property
    def library(self) -> tuple[bytes, bytes]:
        return read_library()

    def model(self) -> nn.Module:
        return GPT()

    def samples(self, split: str) -> Windows:
        return Windows(self.library[split == "validation"])

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(batch[:, :-1])
        return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def validate(self, model: nn.Module) -> float:
        """Mean loss in nats a byte over windows spread evenly over the held-out files: the same ones every time."""
        held_out = self.samples("validation")
        stride = len(held_out) // VALIDATION_WINDOWS
        windows = torch.stack([held_out[i * stride] for i in range(VALIDATION_WINDOWS)])
        return float(self.loss(model, windows.to(next(model.parameters()).device)))

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True)


workload = StdlibLM()

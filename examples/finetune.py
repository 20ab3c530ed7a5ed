"""Fine-tunes a causal language model of your own, from a local directory, on the Python standard library's sources.

Needs `pip install transformers`, and in each node's environment `SHOAL_MODEL`: a directory into which `save_pretrained` has
put the model and its tokenizer, the same on every node. Nothing is downloaded.
"""

import os
import sysconfig
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DIRECTORY = "SHOAL_MODEL"  # environment variable
CONTEXT = 128  # tokens
TEXT_BYTES = 1_000_000  # of the library: a slow tokenizer takes a few seconds for it
VALIDATION_WINDOWS = 16
LEARNING_RATE = 5e-5  # transformers' own usual start for fine-tuning


class NotReady(Exception):
    """What this example needs is not there."""


def transformers() -> Any:
    """The library, or how to get it."""
    try:
        import transformers as library
    except ModuleNotFoundError as error:
        raise NotReady("examples.finetune needs transformers: pip install transformers") from error
    return library


def directory() -> Path:
    """Where the model is, or what to do about it."""
    name = os.environ.get(DIRECTORY)
    if not name:
        raise NotReady(f"no model: set {DIRECTORY} to the directory of one before `shoal node`, on every node")
    if not (Path(name) / "config.json").is_file():
        raise NotReady(f"{DIRECTORY} is {name}, which has no config.json: write one there with model.save_pretrained")
    return Path(name)


def read_library(split: str) -> str:
    """The library's own modules, a tenth of which is held out for validation."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(root.glob("*.py"))
    if not files:
        raise NotReady(f"no sources in {root}: this Python carries its library compiled or zipped")
    part = files[::10] if split == "validation" else [file for i, file in enumerate(files) if i % 10]
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in part)
    return text[: TEXT_BYTES // 10 if split == "validation" else TEXT_BYTES]


class Windows:
    """A text's tokens in windows that follow each other; a map-style dataset."""

    def __init__(self, tokens: Tensor) -> None:
        self.windows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Tensor:
        return self.windows[index]


class Finetune:
    """The workload: what Shoal asks for."""

    def model(self) -> nn.Module:
        """The pretrained model; float32, since its small updates would be lost in the 8 bits of a bfloat16."""
        library = transformers()
        model: nn.Module = library.AutoModelForCausalLM.from_pretrained(directory(), local_files_only=True).float()
        return model

    def samples(self, split: str) -> Windows:
        tokenizer = transformers().AutoTokenizer.from_pretrained(directory(), local_files_only=True)
        return Windows(torch.tensor(tokenizer(read_library(split), verbose=False)["input_ids"]))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        loss: Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss  # the model shifts the labels itself
        return loss

    @cached_property
    def held_out(self) -> Tensor:
        """Windows spread evenly over the held-out text: the same ones every time."""
        windows = self.samples("validation").windows
        return windows[:: max(1, len(windows) // VALIDATION_WINDOWS)][:VALIDATION_WINDOWS]

    def validate(self, model: nn.Module) -> float:
        """Mean loss in nats a token."""
        return float(self.loss(model, self.held_out.to(next(model.parameters()).device)))

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)


workload = Finetune()

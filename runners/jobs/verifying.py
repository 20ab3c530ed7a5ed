"""The gradient that all nodes of a job compute of the same anchor and the same samples, as a fingerprint.

The model is in evaluation mode (no dropout, no moving statistics) and the generators begin alike, so that what nodes get
differs by their arithmetic alone. Gradients under way and the optimizer don't notice.
"""

import contextlib
import hashlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runners.jobs.live import Lines
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.vectors import Vector, chunks
from schemas.verification import Fingerprint

BLOCKS = 32
"""Parts of a gradient that are compared each by itself: an error in one layer of many doesn't drown in the others."""

SAMPLES = 4
"""Samples of the gradient at most: arithmetic is the same for one as for many, and every node must have room for them."""


def verify(trainer: LocalTrainer, seed: int, version: int, microbatch: int) -> Fingerprint:
    """The gradient at the model's parameters of the samples that the job's seed and the version name.

    Raises:
        Exception: whatever the workload raises, such as for want of memory.
    """
    begun = time.perf_counter()
    chosen = random.Random(f"{seed}/verify/{version}")
    size = len(trainer.dataset)
    indices = [chosen.randrange(size) for _ in range(min(SAMPLES, microbatch))]
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    with _alike(trainer, seed + version):
        batch = trainer.batch(indices)
        with torch.autocast(trainer.device.type, trainer.passes.dtype, enabled=trainer.passes.dtype is not None):
            loss = trainer.workload.loss(trainer.model, batch)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = Lines(
        [
            parameter.new_zeros(()).expand(parameter.numel()) if gradient is None else gradient
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )
    value = float(loss.detach())
    finite = math.isfinite(value) and all(bool(torch.isfinite(flat[place]).all()) for place in chunks(flat.numel()))
    norms, signed = blocks(flat) if finite else ((), ())
    return Fingerprint(
        batch=digest_of(batch),
        precision=precision_of(trainer),
        loss=value if finite else None,
        norms=norms,
        signed=signed,
        seconds=time.perf_counter() - begun,
    )


def precision_of(trainer: LocalTrainer) -> str:
    """What a node's steps are computed in; see `Fingerprint.precision`."""
    if trainer.passes.dtype is not None:
        return str(trainer.passes.dtype).removeprefix("torch.")
    rounded = trainer.device.type == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return "tf32" if rounded else "float32"


def blocks(flat: Vector) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The norms and signed sums of a flat float32 gradient's `BLOCKS`; see `Fingerprint`."""
    count = flat.numel()
    size = max(1, -(-count // BLOCKS))
    norms, signed = [], []
    for start in range(0, count, size):
        block = flat[start : min(start + size, count)].double()
        # Knuth's multiplicative hash of the place: signs without a pattern that a layer's shape could match.
        places = torch.arange(block.numel(), dtype=torch.int64)
        signs = ((places * 2654435761 >> 16) & 1).double().mul_(2).sub_(1)
        norms.append(float(block.norm()))
        signed.append(float((block * signs).sum()) / math.sqrt(block.numel()))
    return tuple(norms), tuple(signed)


def digest_of(batch: Any) -> str:
    """SHA-256 of the tensors in a batch, in their order, with shapes and types."""
    sha = hashlib.sha256()
    for tensor in _tensors(batch):
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for key in sorted(batch, key=str):
            yield from _tensors(batch[key])
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for part in batch:
            yield from _tensors(part)


@contextlib.contextmanager
def _alike(trainer: LocalTrainer, seed: int) -> Iterator[None]:
    """Evaluation mode and generators of one seed; afterwards all is as it was."""
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        trainer.model.eval()
        try:
            yield
        finally:
            trainer.model.train()

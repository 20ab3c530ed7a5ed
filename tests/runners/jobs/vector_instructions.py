"""What must not depend on a CPU's vector instructions, worked out with some and with none; a program of its own.

torch looks at `ATEN_CPU_CAPABILITY` when it first computes something, so that forks of a process that has only imported
it can each have their own.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch._dynamo  # optimizers import it at their first step: here once instead of in each fork
from test_gradient_steps import RECIPES
from test_verifying import session, verified
from torch import nn

from runners.jobs.anchor import Anchor, weighted_average
from runners.jobs.codecs import ENCODINGS, decode, encode
from runners.jobs.gradient_steps import SharedOptimizer
from runners.jobs.moving import outer_step, take_over
from runners.jobs.vectors import whole
from schemas.jobs import OuterStep

CAPABILITIES = ("default", "avx2")
OUTER_STEPS: tuple[OuterStep, ...] = ("average", "nesterov")


class Numbers:
    """Reproducible ones, made from integers: torch's own generators give other numbers on other instruction sets."""

    def __init__(self) -> None:
        self.generator = np.random.Generator(np.random.PCG64(11))

    def __call__(self, count: int, scale: float) -> torch.Tensor:
        drawn = self.generator.integers(-(2**31), 2**31, count) / 2**31 * scale
        return torch.from_numpy(drawn.astype(np.float32))


def anchors() -> dict[str, str]:
    """Digests of anchors after three rounds, by encoding and outer step."""
    numbers = Numbers()
    start = Anchor.from_model(nn.Sequential(nn.Linear(300, 301), nn.BatchNorm1d(301)))
    start = replace(start, values=numbers(start.layout.count, 0.1))
    digests = {}
    for encoding in ENCODINGS:
        for kind in OUTER_STEPS:
            anchor = start
            for _ in range(3):
                count = anchor.layout.count
                deltas = [(weight, decode(encode(numbers(count, 1e-3), encoding))) for weight in (3.0, 5.0, 0.1)]
                average = decode(encode(whole(weighted_average(deltas)), encoding))
                anchor = outer_step(anchor, average, kind, lr=0.7, momentum=0.9)
                anchor = replace(anchor, values=_shift(start, anchor).add_(anchor.values))
            digests[f"{encoding} {kind}"] = anchor.digest()
    return digests


def _shift(start: Anchor, anchor: Anchor) -> torch.Tensor:
    shift = torch.zeros(anchor.layout.count)

    def follow(at: int, _: torch.Tensor, moved: torch.Tensor) -> None:
        shift[at : at + len(moved)].copy_(moved)

    take_over(replace(start, values=start.values.clone()), anchor, follow)
    return shift


def optimizers() -> dict[str, str]:
    """Digests of anchors after four shared steps, by optimizer."""
    numbers = Numbers()
    start = Anchor.from_model(nn.Sequential(nn.Linear(100, 101), nn.BatchNorm1d(101)))
    digests = {}
    for name, recipe in sorted(RECIPES.items()):
        anchor, shared = replace(start, values=numbers(start.layout.count, 0.1)), SharedOptimizer(recipe, start.layout)
        for _ in range(4):
            anchor = shared.step(anchor, numbers(start.layout.count, 1e-3))
        digests[name] = anchor.digest()
    return digests


def gradient() -> str:
    """The fingerprint of a gradient, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        return msgspec.json.encode(verified(session(Path(folder), "a"))).decode()


def main() -> None:
    """A line of JSON for each capability."""
    for capability in CAPABILITIES:
        if not os.fork():
            os.environ["ATEN_CPU_CAPABILITY"] = capability
            torch.set_num_threads(1)
            found = {"anchors": anchors(), "optimizers": optimizers(), "gradient": gradient()}
            print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability()} | found), flush=True)
            os._exit(0)
        if os.wait()[1]:
            sys.exit(f"failed under {capability}")


if __name__ == "__main__":
    main()

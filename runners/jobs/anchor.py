"""The anchor: the model that all nodes agree on, bit by bit.

Sign convention throughout: a difference is `working - anchor`, what local steps added, and an outer step *adds* it.
DiLoCo (arXiv 2311.08105, algorithm 1) calls the opposite, `anchor - working`, the outer gradient and descends along it;
the two are the same step.

All arithmetic that moves an anchor (here, in `moving` and in `same_bits`) is float32 on the CPU in separate elementwise
operations: no `add(alpha=)`, no `addcmul`, no reductions. Fused ones round once or twice according to the vector
instructions of the machine, and a node whose anchor differs in one bit would be accused of a fault.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from runners.jobs.layout import Layout, LayoutMismatch, is_constant, tensors_of
from runners.jobs.vectors import Combination, Vector
from schemas.errors import ShoalError

DIGEST_DOMAIN: Final = b"shoal anchor 1\n"


class AnchorError(ShoalError):
    """Differences or weights that no outer step can take. Attributes: `problem` (what, in words)."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerState:
    """What the optimizer of a job with `sync = "step"` has gathered."""

    kind: str
    """Name of its class."""
    tensors: Mapping[str, Tensor]
    """By `<index>.<name>`: place of the parameter in the layout, and torch's name, such as `3.exp_avg`."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A version of the model that a job's nodes agree on: a function of the updates 1 to `version` and nothing else.

    A job's moves in its own memory: of two versions only the newest has its values, since another copy of the model is what
    a machine has no room for.
    """

    version: int
    """Outer steps taken."""
    layout: Layout
    values: Tensor
    """Trained parameters, then floating-point buffers: flat float32 on the CPU, shape (layout.count,)."""
    momentum: Tensor | None
    """Outer momentum of the parameters, flat float32, shape (layout.parameters,); None before the first Nesterov step."""
    constants: Mapping[str, Tensor]
    """What no outer step changes, by name: frozen parameters, and buffers of integers and booleans such as
    BatchNorm's count of batches, whose average means nothing. A node's own may move on between rounds; the anchor
    keeps those of version 0, for newcomers to begin with."""
    optimizer: OptimizerState | None = None
    """With `sync = "step"`, where all run the same optimizer: its state; None before the first step. Not in the digest:
    what differs in it, differs in the next version's values."""

    @classmethod
    def from_model(cls, model: nn.Module, version: int = 0) -> "Anchor":
        """The anchor that equals `model`.

        Raises:
            LayoutMismatch: the model has complex parameters or nothing to train.
        """
        layout = Layout.of(model)
        constants = {
            name: tensor.detach().cpu().clone() for name, tensor in tensors_of(model).items() if is_constant(tensor)
        }
        return cls(version, layout, layout.flatten(model), None, constants)

    def load_into(self, model: nn.Module, *, constants: bool = False) -> None:
        """Sets the model's parameters and floating-point buffers, and with `constants` everything else too.

        Newcomers need the constants once; later they would undo what a node has counted itself.

        Raises:
            LayoutMismatch: the model is made of other tensors than the anchor.
        """
        self.layout.unflatten(self.values, model)
        if not constants:
            return
        present = tensors_of(model)
        with torch.no_grad():
            for name, value in self.constants.items():
                if name not in present or present[name].shape != value.shape:
                    raise LayoutMismatch(f"the anchor has a constant {name!r} of shape {tuple(value.shape)}")
                present[name].copy_(value)

    def digest(self) -> str:
        """SHA-256 in hex over version, layout, values, momentum and constants: equal for equal bits, and only then."""
        sha = hashlib.sha256(DIGEST_DOMAIN)
        sha.update(struct.pack("<Q", self.version))
        sha.update(self.layout.signature())
        sha.update(_bytes(self.values))
        sha.update(b"\0" if self.momentum is None else b"\1")
        if self.momentum is not None:
            sha.update(_bytes(self.momentum))
        for name in sorted(self.constants):
            value = self.constants[name]
            sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            sha.update(_bytes(value))
        return sha.hexdigest()


def move_buffers(layout: Layout, before: Tensor, average: Tensor, after: Tensor) -> None:
    """Floating-point buffers move by the average of what nodes added to them; variances stay at least 0."""
    torch.add(before[layout.parameters :], average[layout.parameters :], out=after[layout.parameters :])
    for start, stop in layout.variances:
        after[start:stop].clamp_(min=0.0)


def weighted_average(contributions: Sequence[tuple[float, Vector]]) -> Combination:
    """Sum of weight * delta over the sum of weights, added up in the order given (sort by node for a fixed one).

    Raises:
        AnchorError: no contribution, a weight that is negative or not finite, all weights zero, unequal lengths.
    """
    if not contributions:
        raise AnchorError("no differences to average", "close the round without an outer step")
    total = sum(weight for weight, _ in contributions)
    if not 0.0 < total < float("inf") or any(weight < 0.0 for weight, _ in contributions):
        weights = [weight for weight, _ in contributions]
        raise AnchorError(f"weights {weights}", "weigh by samples: at least 0, finite, not all 0")
    lengths = {delta.numel() for _, delta in contributions}
    if len(lengths) > 1:
        raise AnchorError(f"differences of {lengths} elements", "refuse those that are of another workload")
    return Combination([weight / total for weight, _ in contributions], [delta for _, delta in contributions])


def check_delta(delta: Tensor, count: int) -> None:
    """Raises `AnchorError` unless a difference is flat float32 on the CPU of `count` elements."""
    if delta.shape != (count,) or delta.dtype != torch.float32 or delta.device.type != "cpu":
        raise AnchorError(
            f"a difference of shape {tuple(delta.shape)}, {delta.dtype} on {delta.device}, where ({count},) is due",
            "refuse the contribution; that node runs another workload or another version of it",
        )


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's memory, without a copy where it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data

"""Which tensors of a model go where in one flat vector: the same on every node, since the same code builds the model."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from schemas.errors import ShoalError


class LayoutMismatch(ShoalError):
    """A model that doesn't fit: made of other tensors than the anchor, or none to train. Attributes: `problem`."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}: run the same workload source on every node, and train real floating-point tensors")
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's place in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int
    """Elements before it."""
    buffer: bool
    """A floating-point buffer, not a trained parameter."""

    @property
    def count(self) -> int:
        """Elements."""
        return torch.Size(self.shape).numel()

    @property
    def variance(self) -> bool:
        """Whether it is a running variance, which the name says: that of torch's normalisation layers."""
        return self.buffer and self.name.rpartition(".")[2] == "running_var"

    def of(self, flat: Tensor) -> Tensor:
        """This tensor's part of a flat vector, in its shape; not a copy."""
        return flat[self.offset : self.offset + self.count].view(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Trained parameters in the order of their registration, then floating-point buffers in theirs.

    A tensor that several names share (tied weights) is there once, under the first. Buffers that a state dict leaves
    out (`persistent=False`) are derived by the model itself and left alone.
    """

    slots: tuple[Slot, ...]
    parameters: int
    """Elements of trained parameters: the vector's first part."""
    count: int
    """Elements in all."""

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """The layout of a model.

        Raises:
            LayoutMismatch: complex tensors, or no trained parameter.
        """
        trained = {name: tensor for name, tensor in model.named_parameters() if not is_constant(tensor)}
        buffers = {
            name: tensor
            for name, tensor in tensors_of(model).items()
            if not isinstance(tensor, nn.Parameter) and not is_constant(tensor)
        }
        if not trained:
            raise LayoutMismatch(f"{type(model).__name__} has no parameter to train")
        slots: list[Slot] = []
        offset = 0
        for name, tensor in (trained | buffers).items():
            if tensor.is_complex():
                raise LayoutMismatch(f"{name!r} is complex")
            slots.append(Slot(name, tuple(tensor.shape), offset, name in buffers))
            offset += tensor.numel()
        parameters = sum(slot.count for slot in slots if not slot.buffer)
        return cls(tuple(slots), parameters, offset)

    @property
    def variances(self) -> tuple[tuple[int, int], ...]:
        """Where running variances lie: they must not get negative, which a late difference, made when the variance was
        much larger, could otherwise bring about."""
        return tuple((slot.offset, slot.offset + slot.count) for slot in self.slots if slot.variance)

    def signature(self) -> bytes:
        """SHA-256 over names, shapes and kinds, in order."""
        lines = (f"{slot.name} {slot.shape} {'buffer' if slot.buffer else 'parameter'}\n" for slot in self.slots)
        return hashlib.sha256("".join(lines).encode()).digest()

    def require(self, other: "Layout") -> None:
        """Raises `LayoutMismatch`, naming the first tensor that differs, unless the other layout is this one."""
        if self == other:
            return
        for mine, theirs in zip(self.slots, other.slots, strict=False):
            if mine != theirs:
                raise LayoutMismatch(f"{theirs.name!r} of shape {theirs.shape} is where {mine.name!r} {mine.shape} was")
        raise LayoutMismatch(f"{len(other.slots)} tensors where there were {len(self.slots)}")

    def flatten(self, model: nn.Module) -> Tensor:
        """The model's values as one new float32 vector on the CPU, shape (count,); one copy from a GPU."""
        self.require(Layout.of(model))
        tensors = tensors_of(model)
        parts = [tensors[slot.name].detach().reshape(-1).to(torch.float32) for slot in self.slots]
        return torch.cat(parts).cpu()

    def unflatten(self, flat: Tensor, model: nn.Module) -> None:
        """Copies a vector of shape (count,) into the model's tensors, in their own dtype and on their own device."""
        self.require(Layout.of(model))
        tensors = tensors_of(model)
        flat = flat.to(next(model.parameters()).device)
        with torch.no_grad():
            for slot in self.slots:
                tensors[slot.name].copy_(slot.of(flat))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, shared ones once: the live tensors, not copies."""
    kept = set(model.state_dict().keys())
    found: dict[str, Tensor] = dict(model.named_parameters())
    found.update((name, buffer) for name, buffer in model.named_buffers() if name in kept)
    return found


def is_constant(tensor: Tensor) -> bool:
    """Whether no outer step changes it: a frozen parameter, or numbers that have no average."""
    if isinstance(tensor, nn.Parameter):
        return not tensor.requires_grad
    return not (tensor.is_floating_point() or tensor.is_complex())

"""Torch's own optimizers with arithmetic that gives the same bits on every machine.

`add(alpha=)`, `addcmul`, `addcdiv` and `lerp` round once or twice according to the machine's vector instructions. Within
`SeparateArithmetic` each of them is carried out as the separate operations that it stands for, which IEEE 754 rounds alike
everywhere; elementwise operations that need no help go through; anything else, reductions and powers for instance, is
refused by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from schemas.errors import ShoalError

# Elementwise and rounded to nearest (IEEE 754 demands it of the four operations and the root), or moving bits about.
_ELEMENTWISE: Final = "add sub mul div sqrt neg abs sign reciprocal maximum minimum clamp clamp_min clamp_max where"
_COMPARING: Final = "eq ne lt le gt ge logical_and logical_or logical_not"
_MOVING: Final = (
    "copy clone detach alias view _unsafe_view expand select slice unsqueeze squeeze _to_copy _local_scalar_dense empty "
    "empty_like zeros zeros_like ones ones_like full full_like zero fill lift_fresh scalar_tensor"
)
_SAFE: Final = frozenset(f"{_ELEMENTWISE} {_COMPARING} {_MOVING}".split())


class InexactOptimizer(ShoalError):
    """An optimizer whose steps can't be the same on all machines. Attributes: `optimizer`, `problem`."""

    def __init__(self, optimizer: str, problem: str) -> None:
        super().__init__(
            f'{optimizer} {problem}: take SGD, Adam or AdamW for sync = "step", or sync = "round", '
            "where every node has its own optimizer"
        )
        self.optimizer = optimizer
        self.problem = problem


class SeparateArithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, torch's operations of this thread are separate elementwise ones.

    Raises:
        InexactOptimizer: from an operation whose bits may differ between machines.
    """

    def __init__(self, optimizer: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._optimizer = optimizer

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One operation of torch's, carried out."""
        given = dict(kwargs or {})
        name = func.overloadpacket.__name__.removesuffix("_")
        scaled = _SCALED.get(name)
        if scaled is None and name not in _SAFE and func.namespace != "profiler":
            raise InexactOptimizer(self._optimizer, f"uses {name}, whose bits differ between machines")
        alpha = given.get("alpha", args[2] if len(args) > 2 else 1)
        if scaled is None or (name in _BY_ALPHA and alpha == 1):
            return func(*args, **given)
        result = scaled(*args, **{key: value for key, value in given.items() if key != "out"})
        if func.overloadpacket.__name__.endswith("_"):
            return args[0].copy_(result)
        return given["out"].copy_(result) if "out" in given else result


def _add(start: Tensor, other: Any, alpha: float = 1) -> Tensor:
    return torch.add(start, other * alpha)


def _sub(start: Tensor, other: Any, alpha: float = 1) -> Tensor:
    return torch.sub(start, other * alpha)


def _rsub(start: Tensor, other: Any, alpha: float = 1) -> Tensor:
    return start.mul(-alpha).add_(other)


def _addcmul(start: Tensor, one: Tensor, two: Tensor, *, value: float = 1) -> Tensor:
    return one.mul(two).mul_(value).add_(start)


def _addcdiv(start: Tensor, one: Tensor, two: Tensor, *, value: float = 1) -> Tensor:
    return one.div(two).mul_(value).add_(start)


def _lerp(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    return torch.sub(end, start).mul_(weight).add_(start)


_BY_ALPHA: Final = ("add", "sub", "rsub")
_SCALED: Final[Mapping[str, Callable[..., Tensor]]] = {
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
}

"""A workload: what a user writes to have a model trained, and how a job's `module:attribute` becomes one."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from runners.workload_source import WorkloadError, app_root, not_found, split_name

__all__ = ["BoundWorkload", "MapDataset", "Workload", "WorkloadError", "bind", "load_workload"]

REQUIRED: Final = ("model", "samples", "loss", "validate")
OPTIONAL: Final = ("optimizer", "collate")

# AdamW's usual start. The weight decay is torch's default for it.
_LEARNING_RATE: Final = 1e-3
_WEIGHT_DECAY: Final = 0.01


class MapDataset(Protocol):
    """A map-style dataset: any node may ask for any of its samples, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Workload(Protocol):
    """What a job's `module:attribute` must offer: a module, an object, or a class or function that returns one.

    It may also offer `optimizer(parameters)`, by default AdamW, and `collate(samples)`, which makes a batch of a list of
    samples, by default torch's `default_collate`. Each node has its own optimizer, whose state stays there; with
    `sync = "step"` all run the same one, unfused and on the CPU (see `gradient_steps`).
    """

    def model(self) -> nn.Module:
        """A new model; called after the job's seed is set. Shoal moves it to the node's device."""

    def samples(self, split: str) -> MapDataset:
        """The `train` or the `validation` data."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a batch, a scalar to call `backward` on; the batch is on the model's device."""

    def validate(self, model: nn.Module) -> float:
        """The held-out loss, the same figure on every node; called in evaluation mode without gradients."""


@dataclass(frozen=True, slots=True)
class BoundWorkload:
    """A workload with all six functions there, the optional ones filled in."""

    name: str
    model: Callable[[], nn.Module]
    samples: Callable[[str], MapDataset]
    loss: Callable[[nn.Module, Any], Tensor]
    validate: Callable[[nn.Module], float]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    collate: Callable[[list[Any]], Any]


def load_workload(name: str, app_dir: Path | None = None) -> BoundWorkload:
    """Imports a workload from the app directory (by default the working directory) or Python's path.

    The directory is put first on `sys.path`, as Python itself does for a script, and stays there: a workload may import
    its neighbours later.

    Raises:
        WorkloadError: no such module, one that raises while it is imported or made, no such attribute, a missing method.
    """
    module_name, attribute = split_name(name)
    root = app_root(app_dir)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    found: object = _import(name, module_name, root)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise _no_attribute(name, found, part) from None
    if inspect.isclass(found) or (callable(found) and not all(hasattr(found, method) for method in REQUIRED)):
        try:
            found = cast(Callable[[], object], found)()
        except Exception as error:
            raise WorkloadError(name, f"raised {_last_line(error)} when called", "it must need no arguments") from error
    return bind(found, name)


def bind(workload: object, name: str) -> BoundWorkload:
    """Checks that an object is a workload and fills in what it leaves out.

    Raises:
        WorkloadError: a required method is missing, or something of that name can't be called.
    """
    missing = [method for method in REQUIRED if not callable(getattr(workload, method, None))]
    if missing:
        problem = f"{_described(workload)} has no {_listed(missing)}"
        raise WorkloadError(name, problem, f"a workload has the functions {', '.join(REQUIRED)}")
    for method in OPTIONAL:
        if not callable(getattr(workload, method, default_collate)):
            raise WorkloadError(name, f"{method} can't be called", "make it a function, or leave it out")
    offered = cast(Workload, workload)
    return BoundWorkload(
        name=name,
        model=offered.model,
        samples=offered.samples,
        loss=offered.loss,
        validate=offered.validate,
        optimizer=getattr(workload, "optimizer", default_optimizer),
        collate=getattr(workload, "collate", default_collate),
    )


def default_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW with a learning rate of 1e-3 and a weight decay of 0.01, fused: a step of a million parameters in fifty
    tensors costs 2 ms on a CPU instead of 8."""
    return torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True)


def _import(name: str, module: str, root: Path) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise not_found(name, root) from error
        problem = f"it imports {error.name!r}, which is not installed here"
        raise WorkloadError(name, problem, f"install it on this node ({error})") from error
    except Exception as error:
        problem = f"importing it raised {_last_line(error)}"
        raise WorkloadError(name, problem, f"try `python -c 'import {module}'` in {root}") from error


def _no_attribute(name: str, owner: object, attribute: str) -> WorkloadError:
    public = [candidate for candidate in vars(owner) if not candidate.startswith("_")] if hasattr(owner, "__dict__") else []
    close = get_close_matches(attribute, public, n=1, cutoff=0.6)
    mend = f"did you mean {close[0]!r}?" if close else "define it there, or name another after the colon"
    return WorkloadError(name, f"{_described(owner)} has no {attribute!r}", mend)


def _described(thing: object) -> str:
    return f"module {thing.__name__!r}" if isinstance(thing, ModuleType) else f"a {type(thing).__name__}"


def _listed(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _last_line(error: Exception) -> str:
    return traceback.format_exception_only(error)[-1].strip()

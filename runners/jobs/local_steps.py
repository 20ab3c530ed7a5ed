"""Local optimizer steps: one node's part of a round, the same code on CPU and CUDA."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from runners.jobs.anchor import Anchor
from runners.jobs.layout import Layout
from runners.jobs.live import Live
from runners.jobs.meeting import Origin
from runners.jobs.moving import Follow
from runners.jobs.passes import DEFAULT_BACKEND, Passes
from runners.jobs.sampling import Cursor, Sampler
from runners.jobs.spec import JobSpec
from runners.jobs.vectors import Difference
from runners.jobs.workload import BoundWorkload, load_workload
from schemas.errors import ShoalError
from schemas.jobs import JobRequest, Precision


class NonFiniteLoss(ShoalError):
    """A loss that is NaN or infinite; the model was not changed by it. Attributes: `loss`, `step`."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(
            f"the loss was {loss} in step {step} on this node: lower the learning rate, clip gradients in the loss, "
            "or look for bad samples"
        )
        self.loss = loss
        self.step = step


class DeviceError(ShoalError):
    """A device that was asked for and isn't there. Attributes: `device`."""

    def __init__(self, device: str, why: str) -> None:
        super().__init__(f"no device {device!r} ({why}): leave it out to take what there is, or see `shoal doctor`")
        self.device = device


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimizer step."""

    samples: int
    loss: float
    """Mean loss of the batch, before the step."""
    seconds: float
    """Loading, forward, backward and the optimizer, until the device was done."""


def pick_device(wanted: str | None = None) -> torch.device:
    """`wanted` (such as `cpu`, `cuda` or `cuda:1`), else CUDA where there is some, else the CPU.

    Raises:
        DeviceError: `wanted` is not a device of this machine.
    """
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(wanted, str(error).strip().split("\n")[0]) from error
    return device


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with all its tensors on the device; tuples, lists and dicts (and what they hold) keep their form.

    To CUDA the copies come from pinned memory and don't wait (`non_blocking`), so that they overlap what runs there.
    """
    if isinstance(batch, Tensor):
        if device.type == "cuda" and batch.device.type == "cpu":
            return batch.pin_memory().to(device, non_blocking=True)
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


class LocalTrainer:
    """A model, its optimizer and a walk over the data on one device. Nothing in it is shared but through an anchor."""

    def __init__(
        self,
        workload: BoundWorkload,
        *,
        seed: int,
        node: str,
        device: torch.device | None = None,
        cursor: Cursor | None = None,
        accumulate: int = 1,
        precision: Precision = "auto",
        compiled: bool = False,
        backend: str = DEFAULT_BACKEND,
    ) -> None:
        """Makes the model (from `seed`, the job's), the optimizer and the training data.

        Randomness during training (dropout, augmentation) comes from the seed and the node's name together, so that
        nodes don't draw the same masks. The last four say how a step is made: see `Passes`.

        Raises:
            LayoutMismatch: the model has nothing to train.
            ValueError: the training data is empty, or doesn't fit the cursor.
        """
        self.workload = workload
        self.device = device or pick_device()
        torch.manual_seed(seed)
        self.model: nn.Module = workload.model().to(self.device)
        self.model.train()
        self.passes = Passes(
            self.model,
            workload.loss,
            self.device,
            accumulate=accumulate,
            precision=precision,
            compiled=compiled,
            backend=backend,
        )
        self.optimizer = workload.optimizer([p for p in self.model.parameters() if p.requires_grad])
        self.dataset = workload.samples("train")
        self.sampler = Sampler(len(self.dataset), seed, node, cursor)
        self.steps = 0
        """Steps taken here."""
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}\n{node}".encode()).digest()[:7], "big"))

    def step(self, microbatch: int) -> StepResult:
        """One optimizer step on the next `microbatch` samples, in several passes where they don't fit at once.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite; raised before the backward pass, so model and optimizer are
                as they were.
        """
        self.clear_gradients()
        return self._pass(microbatch, self.optimizer.step)

    def gradient(self, microbatch: int) -> StepResult:
        """Adds the gradient of the mean loss of the next `microbatch` samples to the model's; the optimizer doesn't run.

        Raises:
            NonFiniteLoss: as `step`.
        """
        return self._pass(microbatch, lambda: None)

    def clear_gradients(self) -> None:
        """Forgets the model's gradients."""
        self.model.zero_grad(set_to_none=True)

    def _pass(self, microbatch: int, then: Callable[[], object]) -> StepResult:
        begun = time.perf_counter()
        value = self.passes.gradients(self.sampler.next_indices(microbatch), self.batch)
        if not math.isfinite(value):
            raise NonFiniteLoss(value, self.steps)
        then()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else the time of this step would be counted in the next
        self.steps += 1
        return StepResult(microbatch, value, time.perf_counter() - begun)

    def validate(self) -> float:
        """The workload's held-out loss of the model as it is, in evaluation mode and without gradients."""
        self.model.eval()
        try:
            with torch.no_grad():
                return float(self.workload.validate(self.model))
        finally:
            self.model.train()

    def anchor(self, version: int = 0) -> Anchor:
        """An anchor that equals the model: how a job's first one comes to be."""
        return Anchor.from_model(self.model, version)

    def load(self, anchor: Anchor, *, constants: bool = False) -> None:
        """Begins at an anchor. The optimizer's state (AdamW's moments) stays: it is as good for the next steps.

        `constants` also takes over what no outer step changes: for newcomers, once.
        """
        anchor.load_into(self.model, constants=constants)

    def delta(self, anchor: Anchor | Origin) -> Difference:
        """What was learned since `load(anchor)`, or from an origin on, read out of the model where it is looked at."""
        return Difference(Live(anchor.layout, self.model), anchor.values)

    @contextmanager
    def following(self, layout: Layout) -> Iterator[Follow]:
        """While an anchor moves in the midst of local steps: what moves the model with it.

        Parameters: working + (new - old), so that the difference made so far is kept. Floating-point buffers are set to
        the new anchor's: a shifted variance could become negative.
        """
        live = Live(layout, self.model)

        def follow(start: int, values: Tensor, shift: Tensor) -> None:
            if start < layout.parameters:
                live.add(start, shift)
            else:
                live.set(start, values)

        yield follow
        live.close()

    def batch(self, indices: list[int]) -> Any:
        """Training samples by their places, collated, on the device."""
        return to_device(self.workload.collate(self._fetch(indices)), self.device)

    def _fetch(self, indices: list[int]) -> list[Any]:
        """Samples one by one, or all at once where the dataset offers `__getitems__`, as torch's own loader does."""
        at_once = getattr(self.dataset, "__getitems__", None)
        if at_once is not None:
            return cast(Callable[[list[int]], list[Any]], at_once)(indices)
        return [self.dataset[index] for index in indices]


def trainer_for(spec: JobSpec) -> LocalTrainer:
    """The trainer that a job asks for on a node. On a machine without CUDA torch computes on one thread from here on:
    agents, and other jobs, come before it.

    Raises:
        WorkloadError, DeviceError, LayoutMismatch, ValueError: as `load_workload`, `pick_device` and `LocalTrainer`.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    request = spec.request
    return LocalTrainer(
        load_workload(request.workload, Path(spec.app_dir) if spec.app_dir else None),
        seed=request.seed,
        node=spec.node,
        device=pick_device(spec.device),
        accumulate=request.accumulate,
        precision=precision_for(request),
        compiled=request.compile,
    )


def precision_for(request: JobRequest) -> Precision:
    """What a job's model computes in. With gradients `auto` is float32, GPUs or not: the job is to equal one machine."""
    return "float32" if request.sync == "step" and request.precision == "auto" else request.precision

"""Forward and backward of one optimizer step: in as many passes as memory calls for, in the precision the device has.

A step of n samples cut into passes of n_1 + n_2 + ... = n adds up the gradients of `loss_i * n_i / n`. For a loss that is a
mean over samples this is the undivided step's gradient within float rounding. What a model computes over a batch as a
whole (batch normalisation, a mean over tokens that aren't padding) it computes over each pass.
"""

import contextlib
import math
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from schemas.jobs import Precision

# What a failed allocation says where it isn't a MemoryError: CUDA's allocator, torch's on the CPU, cuDNN and cuBLAS.
_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "status_alloc_failed")

# NVIDIA's Ampere, the first with bfloat16 units; older ones emulate it, slower than float32 (CUDA C++ programming guide,
# "arithmetic instructions"). AMD's accelerators with matrix units report 9.0 and up.
_BFLOAT16_CAPABILITY: Final = (8, 0)
# Characters of a compiler's complaint that are worth a line.
_COMPLAINT: Final = 300

DEFAULT_BACKEND: Final = "inductor"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, the machine's or an accelerator's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """What a job's `precision` means on a device: the type to compute in where torch deems it safe, None for float32.

    `auto` is bfloat16 on CUDA devices that compute in it natively, float32 elsewhere.
    """
    if precision == "bfloat16":
        return torch.bfloat16
    if precision == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= _BFLOAT16_CAPABILITY else None
    return None


class Passes:
    """Makes a step's gradients, and remembers what didn't work: a pass too large for memory, a model that won't compile.

    Parameters and their gradients stay as they are (float32 as a rule); autocast computes in bfloat16 in between.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor],
        device: torch.device,
        *,
        accumulate: int = 1,
        precision: Precision = "auto",
        compiled: bool = False,
        backend: str = DEFAULT_BACKEND,
    ) -> None:
        """`accumulate` passes a step at least; `compiled`: the model's forward by `torch.compile` with that backend."""
        self.model = model
        self.dtype = autocast_dtype(precision, device)
        self.most: int | None = None
        """Samples that a pass may hold; None as long as all have fitted."""
        self._loss = loss
        self._device = device
        self._accumulate = accumulate
        # A function in the forward's place, not torch's wrapper around the module: the names in the state dict stay, and
        # `loss` gets the model that `model()` made.
        self._forward = torch.compile(model.forward, backend=backend) if compiled else None

    @property
    def compiled(self) -> bool:
        """Whether steps run a compiled forward."""
        return self._forward is not None

    def gradients(self, indices: list[int], batch: Callable[[list[int]], Any]) -> float:
        """Adds the gradient of the mean loss over the samples to what the parameters hold; gives that loss.

        A loss that isn't finite is given at once, before its backward pass: the gradients are then of no use. Running out
        of memory halves the passes, down to one sample; a compiled model that raises is run as it was written. All passes
        are then made again, and a line says so.

        Raises:
            Exception: whatever the loss raises beyond that; out of memory only if a single sample doesn't fit.
        """
        before = {parameter: parameter.grad for parameter in self.model.parameters() if parameter.grad is not None}
        value: float | None = None
        while value is None:
            self.model.zero_grad(set_to_none=True)  # what a pass that failed on its way back has left doesn't count
            sizes = self.cut(len(indices))
            try:
                value = self._once(indices, sizes, batch)
            except Exception as error:
                if not self._mend(error, max(sizes)):
                    raise
            # Out here the error is gone, and with it the frames that held a failed pass's tensors.
            if value is None and self._device.type == "cuda":
                torch.cuda.empty_cache()
        for parameter, gradient in before.items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return value

    def cut(self, samples: int) -> list[int]:
        """The sizes of a step's passes, equal within one."""
        by_memory = math.ceil(samples / self.most) if self.most else 1
        passes = min(samples, max(self._accumulate, by_memory))
        return [samples // passes + (i < samples % passes) for i in range(passes)]

    def _once(self, indices: list[int], sizes: list[int], batch: Callable[[list[int]], Any]) -> float:
        mean, start = 0.0, 0
        for size in sizes:
            loss = self._forward_pass(batch(indices[start : start + size]))
            value = float(loss.detach())
            if not math.isfinite(value):
                return value
            share = size / len(indices)
            (loss if len(sizes) == 1 else loss.float() * share).backward()  # type: ignore[no-untyped-call]
            mean += value * share
            start += size
        return mean

    def _forward_pass(self, batch: Any) -> Tensor:
        with contextlib.ExitStack() as stack:
            if self.dtype is not None:
                stack.enter_context(torch.autocast(self._device.type, self.dtype))
            if self._forward is not None:
                stack.enter_context(_instead(self.model, self._forward))
            return self._loss(self.model, batch)

    def _mend(self, error: Exception, size: int) -> bool:
        """Whether the step may go otherwise after an error in a pass of that size, and from now on goes so."""
        if is_out_of_memory(error) and size > 1:
            self.most = (size + 1) // 2
            print(f"{size} samples didn't fit the memory at once: steps are made in passes of {self.most} from now on")
            return True
        if self._forward is not None:
            self._forward = None
            problem = f"{type(error).__name__}: {textwrap.shorten(str(error), _COMPLAINT)}"
            print(f"the compiled model failed and runs uncompiled from now on ({problem})")
            return True
        return False


@contextlib.contextmanager
def _instead(model: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A model with another forward, for as long as the context lasts: validation and whoever stores it see its own."""
    own = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        if own is None:
            del model.forward  # the class's own again
        else:
            model.forward = own

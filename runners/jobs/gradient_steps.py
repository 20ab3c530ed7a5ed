"""Exact data parallelism: averaged gradients, and the job's own optimizer, run once on every node with the same result.

With gradients g_i of mean losses over microbatches of n_i samples, the mean loss over their union has the gradient
sum(n_i g_i) / sum(n_i): what the reducer averages, weighted by samples. So a job is one machine that takes the union,
within float32 rounding, however uneven the microbatches are.

The optimizer runs on the CPU, on float32 parameters beside the model's, and its state belongs to the anchor: a function of
the updates 1..v, as the parameters are.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from runners.jobs.anchor import Anchor, OptimizerState, check_delta, move_buffers
from runners.jobs.layout import Layout, LayoutMismatch
from runners.jobs.live import Lines, Live
from runners.jobs.same_bits import InexactOptimizer, SeparateArithmetic
from runners.jobs.vectors import Difference, Joined, Section, Vector

# Options of torch's optimizers that choose kernels of other arithmetic than the plain one.
_KERNELS: Final = ("foreach", "fused", "capturable", "differentiable")

Recipe = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class _Mean:
    """A sum by the number of its terms."""

    total: Vector
    terms: int

    def numel(self) -> int:
        """Elements."""
        return self.total.numel()

    def __getitem__(self, place: slice, /) -> Tensor:
        """See `Vector`."""
        return self.total[place] / self.terms


def mean_gradient(model: nn.Module, base: Anchor, steps: int) -> Vector:
    """What a node offers: the gradient that `steps` equal microbatches left in the model, divided by their number, then
    what its floating-point buffers moved since `base`; read out of the model where it is looked at.

    A parameter that no loss reached has the gradient 0, as in distributed data parallelism of torch's.
    """
    layout, parameters = base.layout, dict(model.named_parameters())
    reached = [parameters[slot.name] for slot in layout.slots if not slot.buffer]
    gradients = Lines([p.new_zeros(()).expand(p.numel()) if p.grad is None else p.grad for p in reached])
    moved = Section(Difference(Live(layout, model), base.values), layout.parameters, layout.count)
    return Joined([_Mean(gradients, max(1, steps)), moved])


class SharedOptimizer:
    """A job's optimizer, the same on every node: moves anchors by averaged gradients."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        """`recipe`: the workload's `optimizer`; it is given parameters in the layout's order.

        Raises:
            InexactOptimizer: it uses operations that differ in bits, keeps something else than tensors, or changes its
                own options: two steps are tried.
        """
        self._slots = [slot for slot in layout.slots if not slot.buffer]
        self._layout = layout
        self._parameters = [nn.Parameter(torch.zeros(slot.shape)) for slot in self._slots]
        self._optimizer = recipe(self._parameters)
        self.kind = type(self._optimizer).__qualname__
        for group in self._optimizer.param_groups:
            group.update((option, False) for option in _KERNELS if option in group)
        self._options = self._group_options()
        self._held = self._state()
        tensors = {name: value.clone() for name, value in self._held.tensors.items()}
        self._first = OptimizerState(self.kind, tensors)
        self._try()

    def fits(self, state: OptimizerState) -> bool:
        """Whether a state is one of this optimizer's."""
        counts = {f"{index}": slot.count for index, slot in enumerate(self._slots)}
        sizes = ((counts.get(name.partition(".")[0]), value.numel()) for name, value in state.tensors.items())
        return state.kind == self.kind and all(size in (1, count) and count is not None for count, size in sizes)

    def step(self, anchor: Anchor, average: Tensor) -> Anchor:
        """The next version of an anchor, given the average of `mean_gradient`s weighted by samples.

        The optimizer's state moves on into the new anchor: the old one's is spent.

        Raises:
            AnchorError: `average` is not flat float32 on the CPU of `layout.count` elements.
            LayoutMismatch: the anchor's state is another optimizer's.
            InexactOptimizer: as `__init__`, from what the optimizer does only later.
        """
        check_delta(average, self._layout.count)
        if anchor.optimizer is not self._held:
            self._restore(anchor.optimizer or self._first)
        values = anchor.values.clone()
        for parameter, slot in zip(self._parameters, self._slots, strict=True):
            place = slice(slot.offset, slot.offset + slot.count)
            parameter.data = values[place].view(slot.shape)
            parameter.grad = average[place].view(slot.shape)
        self._run()
        move_buffers(self._layout, anchor.values, average, values)
        self._held = self._state()
        return replace(anchor, version=anchor.version + 1, values=values, optimizer=self._held)

    def _try(self) -> None:
        """Steps of nothing at all, so that what can't be shared is refused before the job begins."""
        for _ in range(2):
            for parameter in self._parameters:
                parameter.grad = torch.zeros_like(parameter)
            try:
                self._run()
            except TypeError as error:
                raise InexactOptimizer(self.kind, f"takes no step without more than gradients ({error})") from error
            self._state()
        self._restore(self._first)

    def _run(self) -> None:
        with SeparateArithmetic(self.kind):
            self._optimizer.step()
        if self._group_options() != self._options:
            raise InexactOptimizer(self.kind, "changes its own options, which newcomers would not know of")
        self._optimizer.zero_grad(set_to_none=True)

    def _group_options(self) -> list[dict[str, Any]]:
        groups = self._optimizer.param_groups
        return [{name: value for name, value in group.items() if name != "params"} for group in groups]

    def _state(self) -> OptimizerState:
        tensors: dict[str, Tensor] = {}
        for index, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                if value is None:
                    continue
                if not isinstance(value, Tensor):
                    raise InexactOptimizer(self.kind, f"keeps {name} as a {type(value).__name__} instead of a tensor")
                tensors[f"{index}.{name}"] = value
        return OptimizerState(self.kind, tensors)

    def _restore(self, state: OptimizerState) -> None:
        if not self.fits(state):
            raise LayoutMismatch(f"the anchor has a state of {state.kind} where the optimizer is {self.kind}")
        kept: Mapping[int, dict[str, Tensor]] = {index: {} for index in range(len(self._parameters))}
        for name, value in state.tensors.items():
            place, _, key = name.partition(".")
            kept[int(place)][key] = value.clone()
        self._optimizer.state.clear()
        for index, parameter in enumerate(self._parameters):
            if kept[index]:
                self._optimizer.state[parameter] = kept[index]

"""A step in several passes, in bfloat16 or compiled is the same step, as nearly as its arithmetic allows."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runners.jobs.local_steps import LocalTrainer, NonFiniteLoss
from runners.jobs.passes import autocast_dtype, is_out_of_memory
from runners.jobs.snapshots import model_to_bytes
from runners.jobs.workload import bind

CPU = torch.device("cpu")


class Curve:
    """A small network that learns a curve, and notes how many samples each pass had and what it computed in."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.computed_in: set[torch.dtype] = set()

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

    def samples(self, split: str) -> Any:
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
        return [(row, row.sin().sum(0, keepdim=True)) for row in x]

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        self.passes.append(len(batch[0]))
        out = model(batch[0])
        self.computed_in.add(out.dtype)
        return nn.functional.mse_loss(out, batch[1])

    def validate(self, model: nn.Module) -> float:
        points = self.samples("validation")
        return float(self.loss(model, [torch.stack(column) for column in zip(*points, strict=True)]))


def trainer(workload: Any, **how: Any) -> LocalTrainer:
    return LocalTrainer(bind(workload, "tests:curve"), seed=0, node="a", device=CPU, **how)


def gradients(of: LocalTrainer) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in of.model.parameters() if p.grad is not None])


def must_be_the_same_step(one: LocalTrainer, other: LocalTrainer, microbatch: int) -> None:
    first, second = one.step(microbatch), other.step(microbatch)
    assert second.loss == pytest.approx(first.loss, rel=1e-6)
    assert second.samples == first.samples == microbatch
    assert gradients(one).abs().max() > 1e-3
    torch.testing.assert_close(gradients(other), gradients(one), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(other.anchor().values, one.anchor().values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("accumulate", "microbatch", "sizes"), [(4, 16, [4] * 4), (3, 16, [6, 5, 5]), (8, 2, [1, 1])])
def test_a_step_in_passes_is_the_undivided_step(accumulate: int, microbatch: int, sizes: list[int]) -> None:
    whole, workload = Curve(), Curve()
    must_be_the_same_step(trainer(whole), trainer(workload, accumulate=accumulate), microbatch)
    assert (whole.passes, workload.passes) == ([microbatch], sizes)


class Narrow(Curve):
    """Has memory for so many samples at once."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room, self.error = room, error

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        loss = super().loss(model, batch)
        if len(batch[0]) > self.room:
            raise self.error
        return loss


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: str(error)[:12])
def test_a_step_that_does_not_fit_is_halved_until_it_does(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_out_of_memory(error)
    workload = Narrow(4, error)
    narrow, wide = trainer(workload), trainer(Curve())
    must_be_the_same_step(wide, narrow, 16)
    assert workload.passes == [16, 8, 4, 4, 4, 4]
    assert capsys.readouterr().out.splitlines() == [
        "16 samples didn't fit the memory at once: steps are made in passes of 8 from now on",
        "8 samples didn't fit the memory at once: steps are made in passes of 4 from now on",
    ]
    workload.passes.clear()
    must_be_the_same_step(wide, narrow, 32)
    must_be_the_same_step(wide, narrow, 4)
    assert workload.passes == [4] * 8 + [4]


def test_gradients_of_a_pass_that_failed_on_its_way_back_do_not_count() -> None:
    class Once(Curve):
        failed = False

        def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
            loss = super().loss(model, batch)
            if not self.failed:
                # The first layer's gradient comes last: those behind it are there already.
                hook = model[0].weight.register_hook(lambda gradient: self.fail())  # type: ignore[index]
                self.undo = hook.remove
            return loss

        def fail(self) -> None:
            self.failed = True
            self.undo()
            raise MemoryError

    workload = Once()
    must_be_the_same_step(trainer(Curve()), trainer(workload), 8)
    assert workload.failed
    assert workload.passes == [8, 4, 4]


def test_gradients_add_up_over_calls_although_one_runs_out_of_memory() -> None:
    whole, narrow = trainer(Curve()), trainer(Narrow(4, MemoryError()))
    for size in (4, 8):
        for each in (whole, narrow):
            each.passes.gradients(list(range(size)), each.batch)
    torch.testing.assert_close(gradients(narrow), gradients(whole), rtol=1e-5, atol=1e-7)
    summed = gradients(whole)
    whole.model.zero_grad()
    whole.passes.gradients(list(range(8)), whole.batch)
    assert not torch.allclose(gradients(whole), summed, rtol=0.1)


def test_a_single_sample_that_does_not_fit_is_the_end() -> None:
    workload = Narrow(0, MemoryError("no room"))
    with pytest.raises(MemoryError, match="no room"):
        trainer(workload).step(4)
    assert workload.passes == [4, 2, 1]


def test_other_errors_are_not_taken_for_memory() -> None:
    workload = Narrow(0, ValueError("a spoilt batch"))
    with pytest.raises(ValueError, match="spoilt"):
        trainer(workload).step(4)
    assert workload.passes == [4]


def test_a_loss_that_is_no_number_in_a_later_pass_changes_nothing() -> None:
    class Later(Curve):
        def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
            return super().loss(model, batch) * (float("inf") if len(self.passes) == 2 else 1.0)

    later = trainer(Later(), accumulate=2)
    before = later.anchor().digest()
    with pytest.raises(NonFiniteLoss):
        later.step(8)
    assert later.anchor().digest() == before


def test_bfloat16_computes_in_it_and_keeps_everything_else_in_float32() -> None:
    exact, workload = trainer(Curve()), Curve()
    rounded = trainer(workload, precision="bfloat16")
    first, second = exact.step(32), rounded.step(32)
    assert workload.computed_in == {torch.bfloat16}
    assert second.loss == pytest.approx(first.loss, rel=0.03)
    assert second.loss != first.loss
    torch.testing.assert_close(gradients(rounded), gradients(exact), rtol=0.1, atol=0.02)
    kept = [*rounded.model.parameters(), *(p.grad for p in rounded.model.parameters() if p.grad is not None)]
    kept += [value for state in rounded.optimizer.state.values() for value in state.values() if value.dim()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert len(kept) == 4 * 4
    workload.computed_in.clear()
    rounded.validate()
    assert workload.computed_in == {torch.float32}


def test_bfloat16_learns() -> None:
    learner = trainer(Curve(), precision="bfloat16", accumulate=2)
    before = learner.validate()
    for _ in range(150):
        learner.step(16)
    assert learner.validate() < before / 3


@pytest.mark.parametrize(
    ("name", "capability", "auto"), [("cpu", (9, 0), None), ("cuda:0", (8, 0), torch.bfloat16), ("cuda:0", (7, 5), None)]
)
def test_auto_is_bfloat16_where_the_device_has_it(
    name: str, capability: tuple[int, int], auto: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device(name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert autocast_dtype("auto", device) == auto
    assert autocast_dtype("float32", device) is None
    assert autocast_dtype("bfloat16", device) == torch.bfloat16


def counting_backend(calls: list[str]) -> Any:
    """Compiles nothing: notes that it was asked, and that what it made was run."""

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        calls.append("asked")

        def run(*arguments: Any) -> Any:
            calls.append("run")
            return graph(*arguments)

        return run

    return backend


def test_a_compiled_model_takes_the_same_steps_under_the_same_names() -> None:
    calls: list[str] = []
    plain, compiled = trainer(Curve()), trainer(Curve(), compiled=True, backend=counting_backend(calls))
    must_be_the_same_step(plain, compiled, 8)
    must_be_the_same_step(plain, compiled, 8)
    assert calls == ["asked", "run", "run"]
    assert compiled.passes.compiled
    assert compiled.validate() == pytest.approx(plain.validate(), rel=1e-5)
    assert calls == ["asked", "run", "run"]  # validation runs the model as it was written
    assert (
        list(compiled.model.state_dict()) == list(plain.model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    )
    assert b"_orig_mod" not in model_to_bytes(compiled.model)
    assert compiled.anchor().layout == plain.anchor().layout


def test_a_model_that_does_not_compile_runs_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    asked = itertools.count(1)

    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        next(asked)
        raise RuntimeError("no compiler on this machine")

    plain, compiled = trainer(Curve()), trainer(Curve(), compiled=True, backend=broken)
    must_be_the_same_step(plain, compiled, 8)
    must_be_the_same_step(plain, compiled, 8)
    assert next(asked) == 2
    assert not compiled.passes.compiled
    (line,) = capsys.readouterr().out.splitlines()
    assert "runs uncompiled from now on" in line
    assert "no compiler on this machine" in line


def test_an_error_of_the_workload_is_raised_as_it_is_although_compiled() -> None:
    broken = trainer(Narrow(0, ValueError("a spoilt batch")), compiled=True, backend=counting_backend([]))
    with pytest.raises(ValueError, match="spoilt"):
        broken.step(4)

"""`sync = "step"`: uneven nodes are one machine that takes the union of their samples, with the same bits on all."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from agents.reducer import policy
from agents.reducer.works import Part
from runners.jobs.anchor import Anchor
from runners.jobs.codecs import decode
from runners.jobs.gradient_steps import SharedOptimizer, mean_gradient
from runners.jobs.layout import LayoutMismatch
from runners.jobs.local_steps import precision_for
from runners.jobs.same_bits import InexactOptimizer, SeparateArithmetic
from runners.jobs.session import Session
from runners.jobs.snapshots import SnapshotError, snapshot_from_bytes, snapshot_to_bytes
from runners.jobs.spec import JobSpec
from runners.jobs.vectors import whole
from schemas.jobs import AverageEncoding, JobRequest

UNEVEN = {"a": 8, "b": 2}

Recipe = Callable[[Any], torch.optim.Optimizer]
RECIPES: dict[str, Recipe] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


class Curve:
    """y = x^2 from a thousand points; `seen` are the samples that were asked for."""

    def __init__(self, recipe: Recipe, normalised: bool = False) -> None:
        self.optimizer = recipe
        self.normalised = normalised
        self.seen: list[int] = []

    def model(self) -> nn.Module:
        between: nn.Module = nn.BatchNorm1d(8) if self.normalised else nn.Tanh()
        return nn.Sequential(nn.Linear(1, 8), between, nn.Linear(8, 1))

    def samples(self, split: str) -> Any:
        curve = self

        class Points:
            def __len__(self) -> int:
                return 1000

            def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
                curve.seen.append(index)
                return point(index)

        return Points()

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        error: Tensor = model(batch[0]) - batch[1]
        return (error**2).mean()

    def validate(self, model: nn.Module) -> float:
        return 0.0


def point(index: int) -> tuple[Tensor, Tensor]:
    x = index / 500 - 1
    return torch.tensor([x]), torch.tensor([x * x])


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    """Loads a session of a job whose workload is a `Curve`."""
    module: Any = ModuleType("curve_workload")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def load_session(node: str, curve: Curve, checkpoint: bytes | None = None, **fields: Any) -> Session:
        module.workload = curve
        request = JobRequest(kind="train", workload="curve_workload:workload", seed=3, **({"sync": "step"} | fields))
        return Session.load(JobSpec(job="j", node=node, server="", request=request, device="cpu"), checkpoint)

    return load_session


def a_round(sessions: dict[str, Session], microbatches: dict[str, int], encoding: AverageEncoding = "float32") -> set[str]:
    """One round as the works carry it out; gives the digests afterwards."""
    reducer, gathered = next(iter(sessions.values())), []
    round_, total = reducer.anchor.version + 1, sum(microbatches.values())
    for node, session in sorted(sessions.items()):
        if node in microbatches:
            session.begin_steps()
            samples = session.step(microbatches[node]).samples
            part = Part(node=node, round=round_, weight=samples / total, samples=samples, steps=1)
            gathered.append((part, decode(session.difference(encoding))))
    payload, _, _ = reducer.average(gathered, policy.averaging(reducer.spec.request), encoding)
    return {str(session.apply(round_, payload)) for session in sessions.values()}


def average_of_one(session: Session, gradient: Tensor) -> bytes:
    """The average that a node which is alone would apply."""
    return session.average([(Part(node="a", round=1, weight=1.0), gradient)], "mean", "float32")[0]


def alone(curve: Curve, recipe: Recipe, start: Anchor, batches: list[list[int]]) -> Tensor:
    """One process with plain torch on the given samples; gives its parameters."""
    model = curve.model()
    start.load_into(model)
    optimizer = recipe(model.parameters())
    for batch in batches:
        optimizer.zero_grad()
        columns = zip(*map(point, batch), strict=True)
        curve.loss(model, [torch.stack(column) for column in columns]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return start.layout.flatten(model)


def fleet(load: Callable[..., Session], recipe: Recipe, normalised: bool = False) -> tuple[dict[str, Session], list[Curve]]:
    curves = [Curve(recipe, normalised) for _ in UNEVEN]
    return {node: load(node, curve) for node, curve in zip(UNEVEN, curves, strict=True)}, curves


@pytest.mark.parametrize("name", RECIPES)
def test_uneven_nodes_equal_one_machine_with_the_union_of_their_samples(name: str, load: Callable[..., Session]) -> None:
    sessions, curves = fleet(load, RECIPES[name])
    start, batches = sessions["a"].anchor, []
    for _ in range(12):
        before = [len(curve.seen) for curve in curves]
        assert len(a_round(sessions, UNEVEN)) == 1
        batches.append([index for curve, had in zip(curves, before, strict=True) for index in curve.seen[had:]])
    assert all(len(batch) == 10 for batch in batches)
    expected = alone(curves[0], RECIPES[name], start, batches)
    assert not torch.allclose(expected, start.values, rtol=0.0, atol=1e-2), "nothing was learned"
    for session in sessions.values():
        assert torch.allclose(session.anchor.values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "nesterov"])
def test_a_newcomer_continues_identically_from_a_snapshot(name: str, load: Callable[..., Session]) -> None:
    sessions, _ = fleet(load, RECIPES[name])
    for _ in range(3):
        a_round(sessions, UNEVEN)
    version, snapshot = sessions["b"].snapshot()
    sessions["c"] = load("c", Curve(RECIPES[name]))
    assert sessions["c"].replace(snapshot) == (version, sessions["a"].digest)
    for _ in range(3):
        assert len(a_round(sessions, UNEVEN | {"c": 4})) == 1


def test_a_job_goes_on_from_a_checkpoint_with_the_optimizer_as_it_was(load: Callable[..., Session]) -> None:
    sessions, _ = fleet(load, RECIPES["adamw"])
    for _ in range(3):
        a_round(sessions, UNEVEN)
    _, checkpoint = sessions["a"].snapshot()
    gradient = torch.linspace(-1, 1, sessions["a"].anchor.layout.count)
    going_on = load("a", Curve(RECIPES["adamw"]), checkpoint)
    afresh = load("a", Curve(RECIPES["sgd"]), checkpoint)
    rounds = load("a", Curve(RECIPES["adamw"]), checkpoint, sync="round")
    payload = average_of_one(sessions["a"], gradient)
    for session in (sessions["a"], going_on, afresh):
        session.apply(session.anchor.version + 1, payload)
    assert going_on.anchor.version == 1
    assert torch.equal(going_on.anchor.values, sessions["a"].anchor.values)
    assert not torch.equal(afresh.anchor.values, sessions["a"].anchor.values)
    assert rounds.anchor.optimizer is None


def test_a_gradient_under_way_stays_that_of_the_anchor_it_was_begun_at(load: Callable[..., Session]) -> None:
    sessions, _ = fleet(load, RECIPES["sgd"], normalised=True)
    twin = load("a", Curve(RECIPES["sgd"], normalised=True))
    late = sessions["a"]
    for session in (late, twin):
        session.begin_steps()
        session.step(8)
    late.apply(1, average_of_one(late, torch.ones(late.anchor.layout.count)))
    assert late.difference("float32") == twin.difference("float32")
    assert late.anchor.version == 1


def test_running_statistics_move_by_the_average_of_what_nodes_added(load: Callable[..., Session]) -> None:
    sessions, _ = fleet(load, RECIPES["adamw"], normalised=True)
    layout, before = sessions["a"].anchor.layout, sessions["a"].anchor.values
    assert len(a_round(sessions, UNEVEN)) == 1
    moved = [whole(session.trainer.delta(replaced(session, before)))[layout.parameters :] for session in sessions.values()]
    expected = before[layout.parameters :] + (8 * moved[0] + 2 * moved[1]) / 10
    assert torch.allclose(sessions["a"].anchor.values[layout.parameters :], expected)


def replaced(session: Session, values: Tensor) -> Anchor:
    return Anchor(0, session.anchor.layout, values, None, {})


def test_several_microbatches_of_a_round_count_as_one_of_their_union(load: Callable[..., Session]) -> None:
    curve = Curve(RECIPES["sgd"])
    session = load("a", curve)
    session.begin_steps()
    for _ in range(3):
        session.step(4)
    gathered = decode(session.difference("float32"))
    model = curve.model()
    session.anchor.load_into(model)
    columns = zip(*map(point, curve.seen), strict=True)
    curve.loss(model, [torch.stack(column) for column in columns]).backward()  # type: ignore[no-untyped-call]
    whole = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    assert torch.allclose(gathered, whole, rtol=1e-5, atol=1e-6)


def test_a_microbatch_in_several_passes_has_the_gradient_of_the_whole(load: Callable[..., Session]) -> None:
    whole, parts = load("a", Curve(RECIPES["sgd"])), load("a", Curve(RECIPES["sgd"]), accumulate=3)
    for session in (whole, parts):
        session.begin_steps()
        for _ in range(2):
            session.step(8)
    found, expected = (decode(session.difference("float32")) for session in (parts, whole))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_exact_steps_are_computed_and_averaged_exactly_unless_something_else_is_asked_for() -> None:
    step = JobRequest(kind="train", workload="m:w", sync="step")
    assert (precision_for(step), policy.averaging(step)) == ("float32", "mean")
    assert precision_for(msgspec.structs.replace(step, precision="bfloat16")) == "bfloat16"
    rounds = msgspec.structs.replace(step, sync="round")
    assert (precision_for(rounds), policy.averaging(rounds)) == ("auto", "clip")


def test_a_parameter_that_no_loss_reaches_has_no_slope() -> None:
    reached, unreached = nn.Linear(2, 1, bias=False), nn.Linear(3, 1, bias=False)
    model = nn.ModuleList([reached, unreached])
    reached.weight.grad = torch.ones(1, 2)
    assert whole(mean_gradient(model, Anchor.from_model(model), 2)).tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]


def test_what_a_coarse_encoding_lost_is_added_to_the_next_gradient(load: Callable[..., Session]) -> None:
    session = load("a", Curve(RECIPES["sgd"]))
    session.begin_steps()
    session.step(8)
    sent = decode(session.difference("int8"))
    exact = load("a", Curve(RECIPES["sgd"]))
    exact.begin_steps()
    exact.step(8)
    assert torch.equal(session.owed.residual, decode(exact.difference("float32")) - sent)
    assert session.owed.residual.any()


def test_damage_to_the_optimizers_state_is_found(load: Callable[..., Session]) -> None:
    sessions, _ = fleet(load, RECIPES["sgd"])
    a_round(sessions, UNEVEN)
    data = bytearray(snapshot_to_bytes(sessions["a"].anchor))
    state = sessions["a"].anchor.optimizer
    assert state is not None
    place = bytes(data).index(state.tensors["0.momentum_buffer"].numpy().tobytes())
    data[place] ^= 1
    with pytest.raises(SnapshotError, match="other bits"):
        snapshot_from_bytes(bytes(data))


class Normed(torch.optim.SGD):
    """Divides gradients by their norm: a reduction."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(parameter.grad / parameter.grad.norm())


class Scheduled(torch.optim.SGD):
    """Changes its learning rate by itself."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.param_groups[0]["lr"] /= 2


class Counting(torch.optim.SGD):
    """Keeps a number that is no tensor."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["count"] = 1


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (lambda p: Normed(p, lr=0.1), "uses .*norm"),
        (lambda p: Scheduled(p, lr=0.1), "its own options"),
        (lambda p: Counting(p, lr=0.1), "keeps count as a int"),
        (torch.optim.LBFGS, "takes no step without more than gradients"),
    ],
)
def test_optimizers_that_nodes_could_not_agree_on_are_refused_before_the_job_begins(recipe: Recipe, problem: str) -> None:
    with pytest.raises(InexactOptimizer, match=problem):
        SharedOptimizer(recipe, Anchor.from_model(nn.Linear(2, 1)).layout)


def test_a_state_of_another_optimizer_is_refused() -> None:
    anchor = Anchor.from_model(nn.Linear(2, 1))
    stepped = SharedOptimizer(RECIPES["adamw"], anchor.layout).step(anchor, torch.ones(anchor.layout.count))
    with pytest.raises(LayoutMismatch, match="AdamW where the optimizer is SGD"):
        SharedOptimizer(RECIPES["sgd"], anchor.layout).step(stepped, torch.ones(anchor.layout.count))


def test_separate_arithmetic_computes_what_torch_does() -> None:
    one, two, three = (torch.rand(100) + 0.5 for _ in range(3))
    calls: list[Callable[[], Tensor]] = [
        lambda: one.add(two, alpha=0.3),
        lambda: one.sub(two, alpha=0.3),
        lambda: torch.rsub(one, two, alpha=0.3),
        lambda: torch.addcmul(one, two, three, value=0.3),
        lambda: torch.addcdiv(one, two, three, value=0.3),
        lambda: torch.lerp(one, two, 0.3),
        lambda: one.clone().addcdiv_(two, three, value=-0.3),
        lambda: torch.add(one, two, alpha=2, out=torch.empty(100)),
    ]
    for call in calls:
        with SeparateArithmetic("this"):
            found = call()
        assert torch.allclose(found, call())

"""The optimizer under any order of events; and its slope test against noise."""

import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from optimizer_world import World

from agents.optimizer.policy import cooldown
from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import RoundSeen
from agents.optimizer.trend import fall, is_flat, moves
from agents.optimizer.verdict import snapshot, worse
from schemas.decisions import AdaptationCost, RolledBack
from schemas.jobs import JobPhase
from schemas.network import LinkQuality
from schemas.training import Tuning

# The slope test


def test_fall_of_a_line_is_exact() -> None:
    found = fall([10.0, 9.0, 8.0, 7.0, 6.0], 4)
    assert found is not None
    assert found.likely == pytest.approx(4 / 8)
    assert found.error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [1.0, float("nan"), 2.0], [1.0, float("inf"), 2.0]])
def test_too_few_or_no_numbers_say_nothing(values: list[float]) -> None:
    assert fall(values, 8) is None


@pytest.mark.parametrize(("per_window", "noise"), [(0.03, 0.02), (0.03, 0.05), (0.05, 0.1)])
def test_noise_does_not_look_like_convergence(per_window: float, noise: float) -> None:
    """A loss that falls slowly (3 or 5 % in 8 rounds) under noise as large: of 100 jobs of 60 rounds one or two, at most,
    are told too early that they have converged."""
    rng = random.Random(5)
    early = 0
    for _ in range(100):
        losses = [(1 - per_window / 8) ** number * rng.gauss(1, noise) for number in range(60)]
        early += any(is_flat(losses[:n], 8, 0.01) and is_flat(losses[: n - 1], 8, 0.01) for n in range(9, 61))
    assert early <= 2


@pytest.mark.parametrize(("noise", "rounds"), [(0.0, 8), (0.002, 12), (0.01, 30)])
def test_a_loss_that_stays_is_seen_through_its_noise(noise: float, rounds: int) -> None:
    rng = random.Random(6)
    seen = 0
    for _ in range(100):
        losses = [rng.gauss(1, noise) for _ in range(rounds)]
        seen += any(is_flat(losses[:n], 8, 0.01) for n in range(8, rounds + 1))
    assert seen >= 90


def test_a_rising_loss_is_not_flat_but_moves() -> None:
    rising = [1.0 + 0.02 * number for number in range(8)]
    assert not is_flat(rising, 8, 0.01)
    assert moves(rising, 8, 0.01)
    assert not moves([1.0] * 8, 8, 0.01)


# Verdicts and cooldowns


@pytest.mark.parametrize(
    ("before", "after", "bad"),
    [
        ([100, 101, 99, 100, 100], [100, 100, 100], False),
        ([100, 101, 99, 100, 100], [91, 91, 91], False),
        ([100, 101, 99, 100, 100], [89, 89, 89], True),
        ([100, 101, 99, 100, 100], [50, 100, 100], False),
        ([100, 60, 140, 80, 120], [50, 50, 50], False),
        ([100, 60, 140, 80, 120], [20, 20, 20], True),
    ],
)
def test_worse_means_beyond_margin_and_noise(before: list[float], after: list[float], bad: bool) -> None:
    base = snapshot(1, [RoundSeen(number, rate, 1.0, 6.0) for number, rate in enumerate(before)])
    rounds = [RoundSeen(number, rate, 1.0, 6.0) for number, rate in enumerate(after)]
    assert bool(worse(base, [1.0] * 5, rounds, OptimizerSettings())) is bad


@pytest.mark.parametrize(("rollbacks", "rounds"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 40), (1000, 40)])
def test_cooldowns_double_to_a_limit(rollbacks: int, rounds: int) -> None:
    assert cooldown(rollbacks, OptimizerSettings()) == rounds


# Any order of events


JOBS = ("one", "two")
NODES = ("a", "b", "c")
jobs = st.sampled_from(JOBS)
phases = st.sampled_from([JobPhase.QUEUED, JobPhase.RUNNING, JobPhase.RUNNING, JobPhase.FINISHING, JobPhase.CANCELLED])
policies = st.sampled_from(["off", "conservative", "aggressive", "reactive", "proactive"])


class OptimizerMachine(RuleBasedStateMachine):
    """Jobs begin and end, rounds close well and badly, configurations and links change, the optimizer restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.job(name="one")
        self.world.assign(name="one")

    @rule(job=jobs, phase=phases, policy=policies, rounds=st.integers(1, 30))
    def state(self, job: str, phase: JobPhase, policy: str, rounds: int) -> None:
        known = job in self.world.asked
        if phase is JobPhase.CANCELLED and known and self.world.round < 20:
            return
        if known:
            self.world.job(phase, job)
        else:
            self.world.job(phase, job, adaptation=policy, rounds=rounds)

    @rule(
        job=jobs,
        count=st.integers(1, 6),
        rate=st.floats(1, 1000),
        loss=st.floats(allow_nan=False, allow_infinity=True) | st.floats(0.1, 10),
        seconds=st.sampled_from([0.0, 0.5, 6.0]),
    )
    def close(self, job: str, count: int, rate: float, loss: float, seconds: float) -> None:
        for _ in range(count):
            self.world.close(rate, loss, seconds, job)

    @rule(job=jobs, count=st.integers(1, 6), rate=st.sampled_from([40.0, 100.0]))
    def steady(self, job: str, count: int, rate: float) -> None:
        for _ in range(count):
            self.world.close(rate, name=job)

    @rule(job=jobs, microbatch=st.sampled_from([8, 16, 32]), nodes=st.sampled_from([NODES[:2], NODES[:2], NODES]))
    def assign(self, job: str, microbatch: int, nodes: tuple[str, ...]) -> None:
        self.world.assign(microbatch, nodes, job)

    @rule(node=st.sampled_from(NODES), quality=st.sampled_from(LinkQuality), previous=st.sampled_from([None, *LinkQuality]))
    def link(self, node: str, quality: LinkQuality, previous: LinkQuality | None) -> None:
        self.world.link(node, quality, previous)

    @rule(node=st.sampled_from(NODES))
    def lose(self, node: str) -> None:
        self.world.lose(node)

    @rule(job=jobs, round=st.integers(0, 50), loss=st.floats(0.1, 10))
    def validate(self, job: str, round: int, loss: float) -> None:
        self.world.validate(loss, round, job)

    @rule(agent=st.sampled_from(["optimizer", "node_selector", "recorder"]), cpu=st.floats(0, 100))
    def usage(self, agent: str, cpu: float) -> None:
        self.world.usage(agent, cpu)

    @precondition(lambda self: self.world.core.state.runs)
    @rule()
    def restart(self) -> None:
        self.world.reborn(remembers=True)

    @invariant()
    def versions_grow_by_one_and_only_for_news(self) -> None:
        for job in JOBS:
            words = [tuning for tuning in self.world.all(Tuning) if tuning.job == job]
            assert [tuning.version for tuning in words] == list(range(1, len(words) + 1))
            assert all(tuning.reason for tuning in words)

    @invariant()
    def phases_only_go_on(self) -> None:
        order = {"initialisation": 0, "warm_up": 1, "adaptive": 2, "convergence": 2, "completed": 3}
        for job in JOBS:
            steps = [order[tuning.phase] for tuning in self.world.all(Tuning) if tuning.job == job]
            assert steps == sorted(steps)

    @invariant()
    def rollbacks_keep_their_distance(self) -> None:
        for job in JOBS:
            rounds = [event.round for event in self.world.all(RolledBack) if event.job == job]
            gaps = [later - earlier for earlier, later in pairwise(rounds)]
            assert all(gap >= self.world.settings.verdict_rounds for gap in gaps)

    @invariant()
    def a_job_that_wants_none_gets_none(self) -> None:
        for job, request in self.world.asked.items():
            if request.adaptation == "off":
                assert not any(tuning.adapt for tuning in self.world.all(Tuning) if tuning.job == job)

    @invariant()
    def cost_is_never_negative(self) -> None:
        assert all(account.agent_seconds >= 0 and account.share >= 0 for account in self.world.all(AdaptationCost))


TestOptimizer = OptimizerMachine.TestCase
TestOptimizer.settings = settings(
    max_examples=35, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@settings(max_examples=30, deadline=None)
@given(
    rates=st.lists(st.sampled_from([40.0, 90.0, 100.0, 130.0]), min_size=10, max_size=40),
    changes=st.sets(st.integers(3, 30), max_size=6),
    names=st.permutations(("x", "y", "zz")),
)
def test_renaming_nodes_changes_nothing_but_names(rates: list[float], changes: set[int], names: list[str]) -> None:
    def play(nodes: tuple[str, ...]) -> list[tuple[object, ...]]:
        world = World()
        world.job()
        world.assign(nodes=nodes)
        for number, rate in enumerate(rates):
            if number in changes:
                world.assign(8 + number, nodes)
            if number == 15:
                world.link(nodes[0], LinkQuality.POOR)
            world.close(rate)
        return [(t.version, t.phase, t.adapt, t.max_factor, t.rollback_to) for t in world.all(Tuning)]

    assert play(("a", "b", "c")) == play(tuple(names))

"""Goodput: the noise scale, what a round is worth, and a controller that goes by it."""

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.batch_controller import goodput, learning, noise
from agents.batch_controller.goodput import Part
from agents.batch_controller.state import Known
from schemas.nodes import Accelerator, NodeProfile
from schemas.training import Average, Contribution, RoundClosed, RoundOpened, StepTimed
from tests.agents.test_batch_controller import EQUAL, Fleet

Works = list[tuple[int, int]]
"""(steps, samples a step) of each node."""


def closed(works: Works, signal: float, variance: float, rng: random.Random | None = None, **fields: Any) -> RoundClosed:
    """A round whose lengths are what is expected of them, or vary around it."""
    vary = (lambda: rng.gauss(1.0, 0.2)) if rng is not None else (lambda: 1.0)
    samples = sum(h * b for h, b in works)
    weights = [h * b / samples for h, b in works]
    alone = [signal * h**2 + variance * h / b for h, b in works]
    together = signal * sum(w * h for w, (h, _) in zip(weights, works, strict=True)) ** 2
    together += variance * sum(w**2 * h / b for w, (h, b) in zip(weights, works, strict=True))
    parts = tuple(
        Contribution(
            node=f"n{place}",
            round=1,
            late=0,
            samples=h * b,
            steps=h,
            weight=weights[place],
            loss=1.0,
            norm=abs(alone[place] * vary()) ** 0.5,
        )
        for place, (h, b) in enumerate(works)
    )
    usual: dict[str, Any] = {
        "contributions": parts,
        "average": Average(key="", size=1, digest="", holders=(), norm=abs(together * vary()) ** 0.5),
    }
    return RoundClosed(
        job="j",
        round=1,
        term=1,
        reducer="a",
        next_reducer="a",
        missing=(),
        samples=samples,
        loss=1.0,
        seconds=1.0,
        on_time=True,
        reason="",
        **usual | fields,
    )


@given(
    works=st.lists(st.tuples(st.integers(1, 100), st.sampled_from([1, 2, 4, 8, 16])), min_size=2, max_size=8),
    scale=st.floats(0.1, 1000),
    length=st.floats(1e-4, 1e4),
)
def test_the_noise_scale_is_found_whatever_the_nodes_shares(works: Works, scale: float, length: float) -> None:
    spread = noise.Spread()
    for _ in range(noise.LEAST_ROUNDS):
        noise.observe(spread, closed(works, length, length * scale))
    assert noise.scale(spread, 8) == pytest.approx(scale, rel=1e-3)


def test_the_noise_scale_sees_through_lengths_that_vary() -> None:
    spread, rng = noise.Spread(), random.Random(1)
    for _ in range(60):
        noise.observe(spread, closed([(10, 8)] * 4, 1.0, 400.0, rng))
    assert 100 < noise.scale(spread, 8) < 1600


@pytest.mark.parametrize(
    "fields",
    [
        {"aggregation": "median"},
        {"average": Average(key="", size=1, digest="", holders=())},
        {"contributions": closed([(10, 8)] * 3, 1.0, 50.0).contributions[:1]},
        {
            "contributions": tuple(
                msgspec.structs.replace(part, scale=0.5) for part in closed([(10, 8)] * 3, 1.0, 50.0).contributions
            )
        },
    ],
    ids=["robust", "no norm", "one node", "clipped"],
)
def test_rounds_that_are_no_mean_of_differences_as_they_came_teach_nothing(fields: dict[str, Any]) -> None:
    spread = noise.Spread()
    noise.observe(spread, closed([(10, 8)] * 3, 1.0, 50.0, **fields))
    assert spread == noise.Spread()
    assert noise.scale(spread, 8) == 8.0


@given(steps=st.floats(1, 100), scale=st.floats(0.01, 1e4), asked=st.sampled_from([1, 8, 64]))
def test_a_lone_machines_step_of_the_microbatch_asked_for_is_the_unit(steps: float, scale: float, asked: int) -> None:
    assert goodput.progress([Part(steps, asked)], scale, asked) == pytest.approx(steps)
    assert goodput.efficiency([Part(steps, asked)], scale, asked) == pytest.approx(1.0)


@given(
    nodes=st.integers(1, 20),
    steps=st.integers(1, 100),
    size=st.sampled_from([1, 2, 8, 32]),
    scale=st.floats(0.01, 1e4),
)
def test_more_nodes_more_steps_and_more_samples_never_make_less_progress(
    nodes: int, steps: int, size: int, scale: float
) -> None:
    here = goodput.progress([Part(steps, size)] * nodes, scale, 8)
    assert goodput.progress([Part(steps, size)] * (nodes + 1), scale, 8) >= here * (1 - 1e-9)
    assert goodput.progress([Part(steps + 1, size)] * nodes, scale, 8) >= here * (1 - 1e-9)
    assert goodput.progress([Part(steps, 2 * size)] * nodes, scale, 8) >= here * (1 - 1e-9)
    alone = goodput.progress([Part(steps, size)], scale, 8)
    assert here <= 3 / 2 * alone * (1 + 1e-9), "nobody's steps get longer by company"


def test_without_noise_company_gains_nothing_and_with_much_of_it_half() -> None:
    gains = [goodput.progress([Part(1, 8)] * 50, scale, 8) for scale in (0.001, 1e6)]
    assert gains == [pytest.approx(1.0, abs=0.01), pytest.approx(3 / 2, rel=0.02)]


def test_seldom_averaging_costs_what_lies_between_digits_and_language_models_and_at_most_what_averaging_gains() -> None:
    each = [goodput.progress([Part(steps, 8)] * 4, 200.0, 8) / steps for steps in (1, 10, 30, 10_000)]
    assert each == sorted(each, reverse=True)
    assert 1.03 < each[0] / each[1] < 1.22
    assert 1.06 < each[0] / each[2] < 1.62
    assert each[3] == pytest.approx(1.0, abs=0.01)
    assert [goodput.in_company(steps) for steps in (1, 10_000)] == [1.0, pytest.approx(2 / 3, abs=0.01)]


def test_the_fixed_part_of_a_step_comes_from_two_sizes() -> None:
    known = Known()
    learning.observe_steps(known, 8, 0.1)
    assert learning.fixed_part(known, 8) is None
    learning.observe_steps(known, 16, 0.12)
    assert learning.fixed_part(known, 8) == pytest.approx(0.8)


class UsefulFleet(Fleet):
    """A fleet whose steps have a fixed part and whose differences are as noisy as is said."""

    fixed = 0.0
    scale = 100.0
    bytes_factor = 1.0

    def step(self, name: str) -> float:
        return self.fixed + super().step(name)

    def transfers(self, name: str) -> tuple[float, float]:
        up, down = super().transfers(name)
        return self.bytes_factor * up, self.bytes_factor * down

    def train(self, rounds: int = 1, missing: tuple[str, ...] = ()) -> None:
        for _ in range(rounds):
            self.round += 1
            self.tell(
                RoundOpened(job="j", node="a", round=self.round, term=1, deadline_seconds=9.0, expected=(), reason="")
            )
            for name in sorted(self.nodes):
                share = self.share(name)
                steps, size = share.local_steps, share.microbatch
                timed: dict[str, Any] = {"steps": steps, "samples": steps * size, "seconds": steps * self.step(name)}
                self.tell(StepTimed(job="j", node=name, round=self.round, microbatch=size, loss=1.0, **timed))
            self.wait(max(self.time(name) for name in self.nodes))
            for name in sorted(self.nodes):
                self.carry(name)
            works = [(self.share(name).local_steps, self.share(name).microbatch) for name in sorted(self.nodes)]
            self.wait(0.05)
            self.tell(
                msgspec.structs.replace(closed(works, 1.0, self.scale), round=self.round, seconds=self.time("a") + 0.05)
            )
            self.wait(0.4)


def fleet(nodes: dict[str, tuple[float, str]] = EQUAL, **fields: Any) -> UsefulFleet:
    """A job that a target loss ends, so that its rounds may have any length."""
    made = UsefulFleet(nodes, **{"batch": "goodput", "local_steps": 10, "target_loss": 0.1} | fields.pop("request", {}))
    for name, value in fields.items():
        setattr(made, name, value)
    made.begin()
    return made


def test_slow_transfers_make_rounds_longer_within_bounds() -> None:
    near = fleet(dict.fromkeys("abc", (0.1, "excellent")), fixed=0.4)
    far = fleet(dict.fromkeys("abc", (0.1, "good")), fixed=0.4, bytes_factor=20.0)
    for each in (near, far):
        each.train(30)
    assert far.share("a").local_steps * far.share("a").microbatch <= 4 * 10 * 8
    assert any("rounds of" in message.reason and "more progress a second" in message.reason for _, message in far.said)
    work = {name: each.share("a").local_steps * each.share("a").microbatch for name, each in (("near", near), ("far", far))}
    assert work["far"] > work["near"]


def test_dear_steps_on_cheap_links_make_rounds_shorter_than_asked_for() -> None:
    near = fleet(dict.fromkeys("abc", (0.5, "excellent")), scale=2000.0)
    near.train(20)
    assert near.share("a").local_steps * near.share("a").microbatch < 8 * 10
    assert near.latest.length == 0


@pytest.mark.parametrize("fields", [{"target_loss": None}, {"target_loss": None, "sync": "overlap"}])
def test_elsewhere_rounds_have_the_steps_and_samples_that_were_asked_for(fields: dict[str, Any]) -> None:
    for link, options in (("good", {"bytes_factor": 20.0}), ("excellent", {"fixed": 0.8}), ("excellent", {"fixed": 0.001})):
        made = fleet(dict.fromkeys("abc", (0.02, link)), **options, request=fields)
        made.train(30)
        shares = made.latest.shares.values()
        samples = max(share.local_steps * share.microbatch for share in shares)
        assert 10 * 8 <= samples <= 10 * max(8, *(share.microbatch for share in shares))
        assert max(share.local_steps for share in shares) >= 10
        assert made.core.state.jobs["j"].history[-1].target == 0.0


def test_overlapped_rounds_on_slow_links_get_longer_too() -> None:
    far = fleet(dict.fromkeys("abc", (0.002, "good")), fixed=0.05, bytes_factor=20.0, request={"sync": "overlap"})
    far.train(12)
    assert far.share("a").local_steps > 10


def test_steps_that_cost_the_same_whatever_their_size_become_larger() -> None:
    launch = fleet(dict.fromkeys("abc", (0.0005, "excellent")), fixed=0.08)
    launch.train(60)
    assert min(launch.share(name).microbatch for name in "abc") >= 16


def test_steps_that_cost_by_the_sample_become_smaller_but_together_have_what_was_asked_for() -> None:
    small = fleet(fixed=0.001)
    small.train(60)
    sizes = [small.share(name).microbatch for name in "abc"]
    assert max(sizes) < 8
    assert sum(sizes) >= 8
    lone = fleet({"a": (0.02, "excellent")}, fixed=0.001)
    lone.train(40)
    assert lone.share("a").microbatch == 8


def test_the_ends_of_the_ladder_are_ends() -> None:
    request = {"microbatch": 1, "microbatch_max": 2}
    short = fleet(fixed=0.5, request=request)
    short.train(30)
    assert {short.share(name).microbatch for name in "abc"} == {2}
    least = fleet(dict.fromkeys("abcd", (0.02, "excellent")), fixed=0.0001, request=request)
    least.train(20)
    assert {least.share(name).microbatch for name in "abcd"} == {1}


def test_a_kind_of_which_nothing_was_measured_tries_nothing() -> None:
    mixed = fleet(fixed=0.001)
    mixed.train(6)
    mixed.nodes["d"] = (0.02, "excellent")
    accelerators = (Accelerator(name="one", memory_bytes=1),)
    mixed.tell(NodeProfile(node="d", version=1, host="d", site="d", cpus=2, memory_bytes=1, accelerators=accelerators))
    mixed.enrol()
    mixed.close()
    assert mixed.share("d").microbatch == 8


def test_only_one_of_a_kind_tries_what_nobody_has_measured() -> None:
    trying = fleet(fixed=0.001)
    trying.train(40)
    first = next(m for _, m in trying.said if len({share.microbatch for share in m.shares.values()}) > 1)
    moved = [name for name, share in first.shares.items() if share.microbatch != 8]
    assert moved == ["a"]


def test_nothing_moves_before_enough_was_seen_nor_without_leave() -> None:
    early = fleet(dict.fromkeys("abc", (0.02, "good")), bytes_factor=4.0)
    early.train(noise.LEAST_ROUNDS - 1)
    assert {(share.microbatch, share.local_steps) for share in early.latest.shares.values()} == {(8, 10)}
    early.tune(1, adapt=False, max_factor=1.0, phase="warm_up")
    early.train(6)
    assert {(share.microbatch, share.local_steps) for share in early.latest.shares.values()} == {(8, 10)}
    early.tune(2)
    early.train(6)
    assert early.share("a").local_steps > 10


def test_a_goodput_fleet_comes_to_rest() -> None:
    resting = fleet({"a": (0.02, "excellent"), "b": (0.03, "good"), "c": (0.06, "fair")}, fixed=0.01)
    resting.train(60)
    said = len(resting.said)
    resting.train(40)
    assert len(resting.said) - said <= 2, [message.reason for _, message in resting.said[said:]]


def test_a_rollback_takes_the_length_back_too() -> None:
    back = fleet(dict.fromkeys("abc", (0.02, "good")), bytes_factor=4.0)
    back.train(20)
    lengths = [kept.target for kept in back.core.state.jobs["j"].history]
    assert len(set(lengths)) > 1
    kept = back.core.state.jobs["j"].history[0]
    back.tune(1, rollback_to=kept.version)
    assert back.core.state.jobs["j"].history[-1].target == kept.target


def test_the_assignment_says_what_its_samples_are_useful_for() -> None:
    told = fleet()
    told.train(12)
    useful = [message.efficiency for _, message in told.said]
    assert all(0 < value <= 2 for value in useful)
    other = Fleet(EQUAL, batch="hybrid").begin()
    assert {message.efficiency for _, message in other.said} == {1.0}
    assert any(a != b for a, b in itertools.pairwise(useful))


def test_nodes_of_a_site_are_one_difference_to_the_noise_scale() -> None:
    whole = closed([(10, 8), (20, 4), (5, 16)], 1.0, 400.0)
    site = whole.contributions[1]
    halves = tuple(
        msgspec.structs.replace(site, node=name, weight=site.weight / 2, samples=site.samples // 2, through="y")
        for name in "yz"
    )
    split = msgspec.structs.replace(whole, contributions=(whole.contributions[0], *halves, whole.contributions[2]))
    told = [noise.Spread(), noise.Spread()]
    for spread, event in zip(told, (whole, split), strict=True):
        noise.observe(spread, event)
    assert told[0].noise == pytest.approx(told[1].noise)
    assert told[0].signal == pytest.approx(told[1].signal)
    assert told[1].rounds == 1

"""`sync = "async"` with real tensors: how far the anchor goes, the same bits for all, and what late nodes hold."""

from pathlib import Path

import pytest
from waves import Load, close, loader, steps, working

from agents.reducer.works import Part
from runners.jobs.session import Session
from runners.jobs.vectors import whole


@pytest.fixture
def load(tmp_path: Path) -> Load:
    layers = "nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8)"
    return loader(tmp_path, "async_work", layers, 0.1, rounds=50, sync="async")


def average(by: Session, round_: int, payloads: dict[str, tuple[float, bytes]], extent: float) -> bytes:
    gathered = [
        (Part(node=node, round=round_, weight=weight, samples=8, steps=1), by.decoded(payload, round_))
        for node, (weight, payload) in payloads.items()
    ]
    return by.average(gathered, "clip", "float32", round_, extent)[0]


def test_the_anchor_goes_as_far_as_the_part_of_the_fleet_that_a_version_has(load: Load) -> None:
    session = load("a")
    start = session.anchor.values.clone()
    steps(session, 1, 3)
    payload = session.difference("float32", 1)
    payload_of, treated, norm = session.average(
        [(Part(node="a", round=1, weight=1.0), session.decoded(payload, 1))], "mean", "float32", 1, 0.25
    )
    assert session.apply(1, payload_of)
    assert close(session.anchor.values - start, 0.25 * whole(session.decoded(payload, 1)))
    assert norm == pytest.approx(float(whole(session.decoded(payload, 1)).norm()), rel=1e-5), "as it was before"
    assert treated[0].norm == pytest.approx(norm)


def test_a_node_alone_takes_the_steps_that_it_would_take_without_versions(load: Load) -> None:
    alone, plain = load("a"), load("a", sync="round")
    plain.begin_steps()
    for _ in range(15):
        plain.step(8)
    for number in range(1, 4):
        steps(alone, number, 2)
        steps(alone, number, 3)  # further ones, while the difference had to wait
        sent = alone.difference("float32", number)
        assert alone.apply(number, average(alone, number, {"a": (1.0, sent)}, 1.0))
    assert close(alone.anchor.values, working(plain))


def test_a_fast_and_a_slow_node_have_the_same_bits_and_learn(load: Load) -> None:
    """The slow one contributes to every third version, late by one, and gets averages in the midst of its steps."""
    fast, slow = load("fast"), load("slow")
    begun = fast.validate()
    waiting: dict[str, tuple[float, bytes]] = {}
    for number in range(1, 31):
        steps(fast, number, 4)
        steps(slow, number, 1)
        parts = {"fast": (1.0, fast.difference("int8", number))}
        if waiting:
            parts = {"fast": (0.7, parts["fast"][1]), "slow": (0.3, waiting.pop("slow")[1])}
        if number % 3 == 0:
            waiting["slow"] = (0.3, slow.difference("int8", number))
        made = average(fast, number, parts, 0.8 if len(parts) == 1 else 1.0)
        assert fast.apply(number, made) == slow.apply(number, made)
    assert fast.validate() < 0.7 * begun
    assert fast.validate() == pytest.approx(slow.validate(), abs=1e-9)
    newcomer = load("new")
    assert newcomer.replace(fast.snapshot()[1]) == (30, fast.digest)


def test_an_own_difference_is_in_the_working_parameters_until_its_version_is_here(load: Load) -> None:
    session = load("a")
    steps(session, 1, 3)
    own = whole(session.decoded(session.difference("float32", 1), 1))
    assert close(working(session) - session.anchor.values, own)
    steps(session, 2, 2)
    since = working(session) - session.anchor.values - own
    others = load("b")
    steps(others, 1, 1)
    made = average(others, 1, {"b": (1.0, others.difference("float32", 1))}, 0.5)
    assert session.apply(1, made), "its own difference was late for it"
    assert close(working(session) - session.anchor.values, since)

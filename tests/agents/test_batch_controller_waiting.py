"""Who a round waits for where transfers take most of it, and what travels then."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_batch_controller import Fleet

from agents.batch_controller import BatchControllerSettings, rounds, travelling, waiting
from agents.batch_controller.rounds import Pace
from schemas.jobs import AverageEncoding, Encoding
from schemas.training import RoundOpened

S = BatchControllerSettings()


class Varied(Fleet):
    """Nodes whose links carry more or less than their grade says: `over` times the seconds."""

    def __init__(self, over: dict[str, float], **request: Any) -> None:
        super().__init__(dict.fromkeys("abcd", (0.0005, "fair")), 25_000_000, microbatch=1, local_steps=1, **request)
        self.over = over

    def transfers(self, name: str) -> tuple[float, float]:
        up, down = super().transfers(name)
        return self.over.get(name, 1.0) * up, self.over.get(name, 1.0) * down

    def open(self, shards: tuple[str, ...]) -> None:
        self.tell(
            RoundOpened(
                job="j",
                node="a",
                round=self.round + 1,
                term=1,
                deadline_seconds=30.0,
                expected=tuple(self.nodes),
                digest="",
                shards=shards,
                reason="",
            )
        )


def seconds_of(paces: dict[str, Pace], asked: int, needed: tuple[str, ...] = (), regular: tuple[str, ...] = ()) -> float:
    every = dict.fromkeys(paces, asked)
    return waiting.round_time(paces, every, rounds.round_time(paces, every, 2), S, needed, regular)


def sending(seconds: float, step: float = 0.05, spread: float = 0.0) -> Pace:
    return Pace(step=step, up=seconds / 2, down=seconds / 2, spread=spread)


def test_links_that_are_alike_are_all_waited_for_where_transfers_are_the_round() -> None:
    paces = {"a": sending(3.0), "b": sending(3.1), "c": sending(3.3), "d": sending(3.6)}
    assert seconds_of(paces, 1) == pytest.approx(3.65)


def test_nobody_is_waited_for_where_steps_are_the_round() -> None:
    paces = {"a": sending(0.1, 0.2), "b": sending(0.8, 0.2), "c": sending(2.5, 0.2), "d": sending(4.0, 0.2)}
    assert seconds_of(paces, 10) == rounds.round_time(paces, dict.fromkeys(paces, 10), 2)


def test_a_moody_link_is_not_waited_for() -> None:
    paces = {name: sending(3.0) for name in "abc"} | {"d": sending(3.0, spread=9.0)}
    assert seconds_of(paces, 1) == pytest.approx(3.05)


def test_who_is_waited_for_already_is_so_a_little_longer() -> None:
    """Four steps in (1 + x) of a time, or three and a half in it: worth it up to 14 %, less or more a margin."""
    paces = {name: sending(2.95) for name in "abc"} | {"d": sending(3.31)}
    assert seconds_of(paces, 1) == pytest.approx(3.0)
    assert seconds_of(paces, 1, regular=("a", "b", "c", "d")) == pytest.approx(3.36)


def test_who_reduces_is_waited_for_but_not_for_ever() -> None:
    paces = {"a": sending(1.0), "b": sending(1.0), "c": sending(1.9), "d": sending(9.0)}
    least = rounds.round_time(paces, dict.fromkeys(paces, 1), 2)
    assert waiting.needed(paces, least, ("c", "d", "gone"), S) == ["c"]
    assert seconds_of(paces, 1, needed=("c",)) >= paces["c"].time(1)


@given(
    st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.0, 10.0), st.floats(0.0, 5.0)), min_size=1, max_size=20),
    st.integers(1, 20),
)
def test_a_round_is_never_shorter_than_without_waiting_and_as_long_as_somebodys_at_most(
    of_nodes: list[tuple[float, float, float]], asked: int
) -> None:
    paces = {f"n{i}": sending(moving, step, spread) for i, (step, moving, spread) in enumerate(of_nodes)}
    least = rounds.round_time(paces, dict.fromkeys(paces, asked), 2)
    longest = max(pace.time(1) + pace.spread for pace in paces.values())
    assert least <= seconds_of(paces, asked) <= max(least, longest)


def test_helpers_contribute_to_each_round_and_the_others_as_they_can() -> None:
    fleet = Varied({"b": 1.05, "c": 1.1, "d": 4.0})
    fleet.begin()
    for _ in range(6):
        fleet.open(("a", "b", "c", "d"))
        fleet.train()
    every = {name: fleet.share(name).every for name in fleet.nodes}
    assert (every["a"], every["b"], every["c"]) == (1, 1, 1)
    assert every["d"] > 1


def test_where_transfers_are_the_round_all_travels_in_int8() -> None:
    fleet = Varied({}).begin()
    assert fleet.latest.average_encoding == "float16"
    fleet.train(5)
    assert {share.encoding for share in fleet.latest.shares.values()} == {"int8"}
    assert fleet.latest.average_encoding == "int8"
    assert any("what its way takes of a round" in message.reason for _, message in fleet.said)
    said = len(fleet.said)
    fleet.train(10)
    assert {message.average_encoding for _, message in fleet.said[said:]} <= {"int8"}


def test_where_steps_are_the_round_the_average_travels_as_the_links_say() -> None:
    fleet = Fleet(dict.fromkeys("abcd", (0.5, "fair"))).begin()
    fleet.train(6)
    assert fleet.latest.average_encoding == "float16"


@pytest.mark.parametrize(
    ("present", "usual", "in_float16", "expected"),
    [
        ("float16", "float16", 0.008, "float16"),
        ("float16", "float16", 0.03, "int8"),
        ("int8", "float16", 0.008, "int8"),
        ("int8", "float16", 0.0045, "float16"),
        ("int8", "float16", None, "int8"),
        ("int8", "int8", 0.01, "int8"),
        ("float32", "float32", 0.008, "float16"),  # 0.016 in float32
        ("float32", "float32", 0.2, "int8"),
        ("float16", "int8", 0.01, "int8"),
        (None, "float16", 9.0, "float16"),
        ("int8", "int8", 9.0, "int8"),
    ],
)
def test_the_averages_encoding(
    present: AverageEncoding | None, usual: AverageEncoding, in_float16: float | None, expected: str
) -> None:
    parts: dict[Encoding, float] = {}
    if in_float16 is not None:
        parts = {"float32": 2 * in_float16, "float16": in_float16, "int8": in_float16 / 2}
    assert travelling.average_encoding(present, usual, parts, S) == expected

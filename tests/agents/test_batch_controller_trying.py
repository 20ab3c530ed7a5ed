"""A larger microbatch is tried by one node of a kind, and the others learn from it."""

import pytest
from test_batch_controller import Fleet

from agents.batch_controller import trying
from agents.batch_controller.state import Known, Node
from schemas.training import Share

EQUAL = dict.fromkeys("abcd", (0.02, "excellent"))


class LaunchBound(Fleet):
    """Steps take the same time with more samples, as on an accelerator with a small model."""

    def step_of(self, name: str, microbatch: int) -> float:
        return self.nodes[name][0] * 8


def sizes_while_training(fleet: Fleet, rounds: int) -> dict[str, set[int]]:
    seen: dict[str, set[int]] = {name: set() for name in fleet.nodes}
    for _ in range(rounds):
        fleet.train()
        for name, sizes in seen.items():
            sizes.add(fleet.share(name).microbatch)
    return seen


@pytest.mark.parametrize("batch", ["hybrid", "throughput"])
def test_of_equal_machines_one_tries_what_gains_nothing(batch: str) -> None:
    fleet = Fleet(EQUAL, microbatch=8, batch=batch).begin()
    seen = sizes_while_training(fleet, 20)
    assert 16 in seen.pop("a")
    assert seen == {"b": {8}, "c": {8}, "d": {8}}


@pytest.mark.parametrize(("batch", "size"), [("hybrid", 16), ("throughput", 32)])
def test_what_gains_on_one_all_do(batch: str, size: int) -> None:
    fleet = LaunchBound(EQUAL, microbatch=8, microbatch_max=32, batch=batch).begin()
    fleet.train(30)
    assert {fleet.share(name).microbatch for name in fleet.nodes} == {size}


def test_a_slow_machine_of_the_kind_is_not_the_one_to_try() -> None:
    fleet = Fleet(EQUAL | {"a": (0.06, "excellent")}, microbatch=8, batch="hybrid").begin()
    seen = sizes_while_training(fleet, 20)
    assert seen["b"] == {8, 16}
    assert seen["a"] == seen["c"] == seen["d"] == {8}


def test_each_kind_has_its_own_and_who_contributes_now_and_then_is_none() -> None:
    share = Share(microbatch=8, local_steps=10, encoding="int8")
    present = {"a": share, "b": share, "c": share, "d": Share(microbatch=8, local_steps=10, encoding="int8", every=2)}
    nodes = {"a": Node(), "b": Node(accelerated=True), "c": Node(), "d": Node()}
    known = {name: Known(steps={8: [0.1]}) for name in present}
    roster = ("d", "c", "b", "a")
    assert trying.of_a_kind("a", roster, present, nodes, known, 8) == ["c", "a"], "a name gives no precedence"
    assert trying.of_a_kind("b", roster, present, nodes, known, 8) == ["b"]
    known["a"].steps = {}
    assert trying.of_a_kind("c", roster, present, nodes, known, 8) == ["c"]


def test_what_others_gained_is_taken_in_proportion_to_the_own_speed() -> None:
    known = {"a": Known(steps={8: [0.1], 16: [0.16]}), "b": Known(steps={8: [0.4]})}
    found = trying.samples_a_second("b", 8, ["a", "b"], known)
    assert found[16] == pytest.approx(20 * 1.25)
    assert 4 not in found, "a smaller one that nobody knows is not guessed"

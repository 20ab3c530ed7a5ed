"""The batch controller with `sync = "overlap"`: links cost steps only where they carry less than a contribution a round."""

from typing import Any

import pytest
from test_batch_controller import EQUAL, Fleet

FAR = EQUAL | {"d": (0.02, "fair")}


def trained(**request: Any) -> Fleet:
    fleet = Fleet(FAR, microbatch=8, local_steps=20, batch="latency", encoding="int8", **request).begin()
    fleet.train(20)
    return fleet


def work(fleet: Fleet, name: str) -> int:
    return fleet.share(name).local_steps * fleet.share(name).microbatch


def test_a_node_behind_a_slow_link_works_as_much_as_the_others() -> None:
    plain, beside = trained(sync="round"), trained(sync="overlap")
    assert work(plain, "d") < 0.9 * work(plain, "a")
    assert work(beside, "d") == pytest.approx(work(beside, "a"), rel=0.15)
    assert beside.share("d").every == 1


def test_of_a_model_in_fragments_only_one_counts_as_a_rounds_transfer() -> None:
    def planned(fragments: int) -> float:
        fleet = trained(sync="overlap", fragments=fragments)
        return fleet.core.state.jobs["j"].nodes["d"].planned_transfer

    assert planned(4) < 0.6 * planned(1)  # round trips remain

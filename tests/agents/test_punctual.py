"""A node that was busy when a round began: it does less, and nobody waits for it before it is in time again."""

import msgspec
import pytest

from agents.trainer.punctual import steps
from agents.trainer.state import TrainerState
from agents.trainer.validating import Seen, Validations
from schemas.jobs import JobRequest
from schemas.training import Assignment, Roster, RoundClosed, Share
from tests.agents.job_cluster import JobCluster, Node

SHARE = Share(microbatch=4, local_steps=10, encoding="float32")
ROSTER = Roster(
    job="j", version=1, nodes=("a", "b", "c"), reducers=("a",), helpers=("a", "b", "c"), quorum=2, reason="start"
)


def state(**fields: object) -> TrainerState:
    """Round 3 could be begun at 100 s; a step takes 0.5 s."""
    known = {"opened": 3, "due_since": 100.0, "sample_seconds": 0.125, "roster": ROSTER}
    return TrainerState(**{"job": "j", "node": "a", "request": request()} | known | fields)  # type: ignore[arg-type]


def request(**fields: object) -> JobRequest:
    return JobRequest(**{"kind": "train", "workload": "m:w"} | fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("now", "taken"), [(100.0, 10), (100.12, 10), (100.13, 9), (101.0, 8), (104.9, 1), (160.0, 1)])
def test_what_would_have_been_done_by_now_is_left_out(now: float, taken: int) -> None:
    assert steps(state(), SHARE, 3, now) == taken


def test_nothing_is_left_out_where_nobody_waits_or_all_do_equal_work_or_no_time_is_known() -> None:
    late = 103.0
    assert steps(state(), msgspec.structs.replace(SHARE, every=2), 3, late) == 10
    assert steps(state(request=request(batch="fixed")), SHARE, 3, late) == 10
    assert steps(state(sync="overlap"), SHARE, 3, late) == 10
    assert steps(state(sample_seconds=0.0), SHARE, 3, late) == 10
    assert steps(state(opened=2), SHARE, 3, late) == 10, "the round isn't open yet"
    alone = msgspec.structs.replace(ROSTER, nodes=("a",), reducers=("a",), helpers=("a",), quorum=1)
    assert steps(state(roster=alone), SHARE, 3, late) == 10


def test_who_validates_first_takes_as_many_steps_less_as_that_takes() -> None:
    validations = Validations(seen=[Seen(90.0, 2.5, 0.8), Seen(95.0, 2.4, 0.8)])
    validations.begin(2, 100.0)
    assert steps(state(validations=validations, opened=2), SHARE, 3, 100.0) == 8, "1.6 steps"
    assert steps(state(validations=validations, opened=2), SHARE, 3, 100.5) == 9
    validations.under_way = False
    assert steps(state(validations=validations, opened=2), SHARE, 3, 100.0) == 10
    first = Validations()
    first.begin(1, 100.0)
    assert steps(state(validations=first, opened=2), SHARE, 3, 100.0) == 10, "nobody knows what one takes"


def test_a_node_whose_long_share_becomes_a_short_one_holds_nobody_up() -> None:
    """`c` is in the midst of a share for four rounds when it is told to contribute to each."""
    cluster = JobCluster([Node(name) for name in "abc"], rounds=16)
    first = cluster.present[2]
    assert isinstance(first, Assignment)
    cluster.run(until=lambda: len(cluster.closed) == 2)
    usual = cluster.closed[2].seconds

    def assign(version: int, **fields: int) -> None:
        shares = first.shares | {"c": msgspec.structs.replace(first.shares["c"], **fields)}
        cluster.publish(msgspec.structs.replace(first, version=version, shares=shares), "controller")

    assign(2, every=4, local_steps=50)
    cluster.run(until=lambda: len(cluster.closed) == 5)
    assign(3, every=1, local_steps=10)
    cluster.run(until=lambda: len(cluster.closed) == 16)

    rounds = list(cluster.closed.values())
    assert max(closed.seconds for closed in rounds[2:]) < 1.3 * usual, [round(closed.seconds, 2) for closed in rounds]
    assert not any(closed.missing for closed in rounds)
    assert all(in_time(closed, "c") for closed in rounds[-5:]), "and it is in step with the others again"
    samples = [part.samples for closed in rounds for part in closed.contributions if part.node == "c"]
    assert max(samples) == 200
    assert any(count < 40 for count in samples), "by taking fewer steps once"


def in_time(closed: RoundClosed, node: str) -> bool:
    return any(part.node == node and not part.late for part in closed.contributions)

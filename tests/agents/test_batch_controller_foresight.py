"""Shares made with a link as it is about to be."""

from copy import deepcopy

import pytest
from test_batch_controller import Fleet

from agents.batch_controller.foresight import as_foreseen
from agents.batch_controller.links import streams_for
from agents.batch_controller.planner import Planner
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import Job, Known, Node
from agents.batch_controller.transfers import factors, observe, seconds_for
from schemas.jobs import JobRequest
from schemas.network import LinkQuality
from schemas.training import ContributionReceived, Foreseen, Share

SHARE = Share(microbatch=8, local_steps=10, encoding="float16")


def measured(node: Node, rate: float) -> Known:
    known = Known(steps={8: [0.1]})
    for _ in range(5):
        observe(known.up, round(rate), 1.0, 1, node)
        observe(known.down, round(rate), 1.0, 1, node)
    return known


@pytest.mark.parametrize("rate", [2e5, 1e6, 1.5e7])
@pytest.mark.parametrize("quality", [LinkQuality.GOOD, LinkQuality.POOR])
def test_transfers_are_expected_at_the_rate_that_is_foreseen(rate: float, quality: LinkQuality) -> None:
    node = Node(quality=LinkQuality.GOOD, latency_ms=0.0)
    ahead, known = as_foreseen(node, measured(node, 5e6), Foreseen(node="a", quality=quality, rate=rate))
    share = Share(microbatch=8, local_steps=10, encoding="int8", streams=streams_for(quality))
    assert factors(known.up).fixed == pytest.approx(factors(measured(node, 5e6).up).fixed)
    trips = seconds_for(known.up, 0.0, share, ahead)
    assert seconds_for(known.up, 1e6, share, ahead) - trips == pytest.approx(1e6 / rate, rel=0.01)


def test_a_better_link_ahead_makes_no_finer_encoding() -> None:
    node = Node(quality=LinkQuality.POOR)
    ahead, known = as_foreseen(node, measured(node, 2e5), Foreseen(node="a", quality=LinkQuality.GOOD, rate=2e7))
    assert ahead.quality is LinkQuality.POOR
    assert not known.regraded
    worse, changed = as_foreseen(
        Node(quality=LinkQuality.GOOD), measured(node, 2e5), Foreseen(node="a", quality=LinkQuality.POOR, rate=2e5)
    )
    assert worse.quality is LinkQuality.POOR
    assert changed.regraded


def test_a_node_whose_link_is_about_to_slow_down_gets_fewer_steps_and_keeps_what_was_measured() -> None:
    request = JobRequest(kind="train", workload="w:w", local_steps=40)
    job = Job(job="j", request=request, roster=("a", "b"), parameters=1_000_000, quorum=1, adapt=True, round=9)
    nodes = {name: Node(quality=LinkQuality.GOOD) for name in ("a", "b")}
    job.nodes = {name: measured(nodes[name], 2e7) for name in ("a", "b")}
    before = dict(job.nodes["a"].up)
    usual = Planner(job, request, nodes, BatchControllerSettings()).plan()
    job.foreseen = (
        Foreseen(node="a", quality=LinkQuality.POOR, rate=1e6),
        Foreseen(node="gone", quality=LinkQuality.POOR, rate=1.0),
    )
    ahead = Planner(job, request, nodes, BatchControllerSettings()).plan()
    assert ahead.shares["a"].local_steps < usual.shares["a"].local_steps
    assert ahead.shares["b"].local_steps == usual.shares["b"].local_steps
    assert ahead.shares["a"].encoding == "int8"
    assert job.nodes["a"].up == before
    assert set(ahead.shares) == {"a", "b"}


def test_when_forecasts_are_no_longer_acted_upon_shares_and_transfers_are_as_they_were_before() -> None:
    fleet = Fleet({"a": (0.02, "good"), "b": (0.02, "good"), "c": (0.02, "good")}).begin()
    fleet.train(4)
    usual = fleet.latest
    job = fleet.core.state.jobs["j"]
    poor = (Foreseen(node="b", quality=LinkQuality.POOR, rate=2e5),)
    fleet.tune(1, policy="proactive", foreseen=poor, ahead=True)
    planned = fleet.latest
    assert planned.shares["b"] != usual.shares["b"]
    known = {name: deepcopy(job.nodes[name].up) for name in "abc"}
    fleet.train(3)
    assert job.nodes["b"].up != known["b"]
    worse = (Foreseen(node="b", quality=LinkQuality.POOR, rate=1e5),)
    fleet.tune(2, policy="proactive", foreseen=worse, ahead=True)
    assert job.before is not None
    assert job.before.kept.version == usual.version, "a turn's plans come and go, what was before it stays"
    fleet.tune(3, policy="proactive", reason="does as reactive does")
    assert fleet.latest.shares == usual.shares
    assert "as before forecasts were acted upon" in " ".join(message.reason for _, message in fleet.said[-2:])
    assert {name: job.nodes[name].up for name in "abc"} == known
    assert job.before is None


def test_who_reduces_waits_for_no_transfer_whatever_its_link_took_before() -> None:
    request = JobRequest(kind="train", workload="w:w", local_steps=40)
    job = Job(job="j", request=request, roster=("a", "b"), parameters=1_000_000, quorum=1, adapt=True, round=9)
    nodes = {name: Node(quality=LinkQuality.GOOD) for name in ("a", "b")}
    job.nodes = {"a": measured(nodes["a"], 2e5), "b": measured(nodes["b"], 2e7)}
    waiting = Planner(job, request, nodes, BatchControllerSettings()).plan().shares["a"]
    job.nodes["a"].reduces = True
    reducing = Planner(job, request, nodes, BatchControllerSettings()).plan().shares["a"]
    assert reducing.every == 1
    assert reducing.local_steps == 40
    assert waiting.local_steps < 40 or waiting.every > 1


def test_a_difference_that_stays_at_home_tells_who_reduces() -> None:
    fleet = Fleet({"a": (0.02, "good"), "b": (0.02, "good")}).begin()
    fleet.train(2)
    nodes = fleet.core.state.jobs["j"].nodes

    def receive(round_: int, size: int, by: str) -> None:
        fleet.tell(ContributionReceived(job="j", node=by, contributor="b", round=round_, size=size, seconds=1.0))

    receive(3, 0, "b")
    assert nodes["b"].reduces
    receive(4, 1_000_000, "a")
    assert not nodes["b"].reduces

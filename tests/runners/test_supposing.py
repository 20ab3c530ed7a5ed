"""Another policy supposed: a run's own changes nothing, another one decides otherwise, and time follows the model."""

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bus.simulated_faults import NONE
from runners.cli.app import app
from runners.simulation import World
from runners.simulation.journaling import journal
from runners.simulation.world import REQUEST
from runners.supposed_time import GUESSED_OFF, LEAST_ROUNDS, OFF, Pair, predicted
from runners.supposing import AGENT, NoSuchPolicy, Policy, Supposed, policy_of, suppose

ROUNDS = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a simulated run of four nodes with links from good to bad, batches by `throughput`."""
    path = tmp_path_factory.mktemp("run") / ".shoal"
    request = msgspec.structs.replace(REQUEST, rounds=ROUNDS, batch="throughput", local_steps=50, max_nodes=4)
    world = World(3, 4, 0.1, NONE, check=0, trace=False, beat=5.0, probe=5.0, request=request)
    close = journal(world, AGENT, path)
    world.begin()
    world.client.stop()
    assert world.until(lambda: bool(world.client.states) and not world.client.open, 900.0, 10.0)
    close()
    return path


def supposed(store: Path, *policy: str) -> Supposed:
    """What the run comes to under another policy."""
    return suppose(store / "agents" / AGENT, store, policy_of(list(policy)))


def test_the_policy_that_a_run_had_decides_the_same_and_changes_no_time(store: Path) -> None:
    found = supposed(store, "batch=throughput")
    assert len(found.decided) > 1
    assert [each.reason for each in found.would_decide] == [each.reason for each in found.decided]
    (time,) = found.times.values()
    assert time.same
    assert time.rounds >= LEAST_ROUNDS
    assert time.supposed == pytest.approx(time.seconds)
    assert time.low == pytest.approx(time.high)


def test_equal_work_for_all_is_decided_once_and_predicted_to_be_slower(store: Path) -> None:
    found = supposed(store, "batch=fixed", "encoding=float32")
    assert len(found.would_decide) < len(found.decided)
    (time,) = found.times.values()
    assert not time.same
    assert time.supposed is not None
    assert time.low is not None
    assert time.high is not None
    assert time.low <= time.supposed <= time.high
    assert time.supposed > 1.05 * time.seconds, "the slowest machine of the fleet sets the pace"
    assert time.guessed > 0.5, "nobody has sent float32"


def test_a_setting_may_be_supposed(store: Path) -> None:
    assert policy_of(["every_max=1"]) == Policy(settings={"every_max": 1})
    found = supposed(store, "spared_share=1.0")
    assert found.would_decide != found.decided


@pytest.mark.parametrize("text", ["batch=quick", "batch", "colour=red", "every_max=0", "gain=much"])
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(NoSuchPolicy, match=text.partition("=")[0]):
        policy_of([text])


def test_people_are_told_what_would_have_been_and_what_is_not_known(store: Path) -> None:
    told = CliRunner().invoke(app, ["replay", str(store), "--policy", "batch=fixed"])
    assert told.exit_code == 0
    assert "for the same progress" in told.output
    assert "not known" in told.output
    refused = CliRunner().invoke(app, ["replay", str(store), "--agent", "optimizer", "--policy", "batch=fixed"])
    assert refused.exit_code != 0


pairs = st.lists(
    st.builds(
        Pair,
        seconds=st.floats(0.5, 100.0),
        model=st.floats(0.5, 100.0),
        supposed=st.floats(0.5, 100.0),
        progress=st.floats(0.1, 10.0),
        supposed_progress=st.floats(0.1, 10.0),
        guessed=st.floats(0.0, 1.0),
    ),
    min_size=1,
    max_size=20,
)


@given(pairs, st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_a_prediction_is_an_interval_above_nothing_or_there_is_none(some: list[Pair], seed: int) -> None:
    time = predicted(some, 0, random.Random(seed))
    assert (time.supposed is None) == (len(some) < LEAST_ROUNDS)
    if time.supposed is not None:
        assert time.low is not None
        assert time.high is not None
        assert 0 < time.low <= time.high


def test_twice_the_time_for_the_same_work_is_twice_the_time() -> None:
    one = Pair(seconds=3.0, model=2.0, supposed=4.0, progress=1.0, supposed_progress=1.0, guessed=0.0)
    time = predicted([one] * 10, 0, random.Random(1))
    assert time.supposed == pytest.approx(60.0)
    assert time.low == pytest.approx(60.0 / (1 + OFF))
    assert time.high == pytest.approx(60.0 * (1 + OFF))
    assert time.model_error == pytest.approx(1 / 3)
    guessed = predicted([msgspec.structs.replace(one, guessed=1.0)] * 10, 0, random.Random(1))
    assert guessed.high == pytest.approx(60.0 * (1 + OFF + GUESSED_OFF))

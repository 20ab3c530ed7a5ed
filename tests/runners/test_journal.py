"""Journals: what was taken is found again, byte for byte, whatever the last life was interrupted in."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import Counted, Silence, Toy, heartbeat

from agents.effects import Publish
from agents.inputs import ProbeReturned, Woken
from runners.journal import Journal, JournalUnreadable
from runners.journaled import JournaledCore
from runners.steps import Input, Step
from schemas.decisions import ForceNode
from schemas.nodes import NodeHeartbeat
from schemas.wire import encode, seal


class Acknowledged:
    """A receipt that a test can look at."""

    redelivered = False
    sequence = 1

    def ack(self) -> None:
        pass


def life(folder: Path, limit: int = 1 << 20, seed: int = 1) -> JournaledCore:
    return JournaledCore(Toy(random.Random(seed)), "toy", 1000, Journal(folder, limit))


def message(event: Any, number: int) -> Input:
    sealed = seal(event, id=f"client:1:{number}", cause="", at=0.0, source="client")
    receipt = None if isinstance(event, NodeHeartbeat) else Acknowledged()
    return Input(sealed, sealed.id, receipt)


def snapshot_of(core: JournaledCore) -> tuple[bytes, object, list[object]]:
    state = msgspec.msgpack.encode(core.agent.state)
    return state, core.agent.rng.getstate(), list(core.timers.in_order())


beats = st.builds(
    lambda n, s, i: ("beat", n, s, i), st.sampled_from("abc"), st.integers(1, 9), st.sampled_from([0.0, 1.0, 5.0])
)
forces = st.builds(lambda n, r: ("force", n, r), st.sampled_from("abc"), st.sampled_from(["", "raise", "store"]))
others = st.sampled_from([("tick",), ("counted",), ("probe",), ("finish",), ("again",)])
scripts = st.lists(st.one_of(beats, forces, others), max_size=40)


def play(core: JournaledCore, script: list[Any], start: int = 0) -> tuple[list[Step], float]:
    """Take a script's inputs as a host would; gives the steps whose effects were never carried out."""
    now, under_way = 100.0, []
    last: Input | None = None
    for number, (do, *args) in enumerate(script, start):
        now += 0.4
        step: Step | None = None
        if do == "beat":
            step = core.take(message(heartbeat(*args), number), now)
        elif do == "force":
            last = message(ForceNode(node=args[0], do="include", reason=args[1]), number)
            step = core.take(last, now)
        elif do == "counted":
            step = core.take(Input(Counted(total=number), "client:1:0"), now)
        elif do == "probe":
            step = core.take(Input(ProbeReturned(sequence=number, rtt=None)), now)
        elif do == "again" and last is not None:
            assert core.take(last, now) is None, "a second delivery was taken"
        elif do == "finish":
            for each in under_way:
                core.finished(each)
            under_way.clear()
        elif do == "tick":
            while (fired := core.timers.pop_due(now)) is not None:
                taken = core.take(Input(*fired), now)
                assert taken is not None
                under_way.append(taken)
        if step is not None:
            under_way.append(step)
        core.flush(now)
    return under_way, now


relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(script=scripts, limit=st.sampled_from([300, 2000, 1 << 20]))
def test_a_replay_gives_the_state_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, script: list[Any], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    first = life(folder, limit)
    first.recover(90.0)
    woken = first.take(Input(Woken(incarnation=1000, resumed=False, at=90.0)), 90.0)
    assert woken is not None
    first.flush(90.0)
    play(first, script)

    second = life(folder, limit, seed=99)
    recovery = second.recover(200.0)
    assert recovery.resumed
    assert snapshot_of(second) == snapshot_of(first)
    assert second.incarnation > first.incarnation


@relaxed
@given(script=scripts)
def test_what_was_cut_short_is_redone_under_the_same_names(
    tmp_path_factory: pytest.TempPathFactory, script: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    first = life(folder)
    first.recover(90.0)
    woken = first.take(Input(Woken(incarnation=1000, resumed=False, at=90.0)), 90.0)
    assert woken is not None
    first.flush(90.0)
    under_way, now = play(first, script)
    first.flush(now)

    recovery = life(folder).recover(200.0)
    open_steps = {step.number: step for step in under_way if any(isinstance(each, Publish) for each in step.effects)}
    assert {step.number for step in recovery.unfinished} == set(open_steps)
    for step in recovery.unfinished:
        before = open_steps[step.number]
        assert step.identity == before.identity
        sent = [encode(each.message) for each in step.effects if isinstance(each, Publish)]
        assert sent == [encode(each.message) for each in before.effects if isinstance(each, Publish)]


@relaxed
@given(script=scripts, cut=st.integers(0, 400), flip=st.booleans())
def test_a_torn_or_damaged_tail_costs_only_the_tail(
    tmp_path_factory: pytest.TempPathFactory, script: list[Any], cut: int, flip: bool
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    first = life(folder)
    first.recover(90.0)
    states = [msgspec.msgpack.encode(first.agent.state)]
    for number, action in enumerate(script):
        play(first, [action], number)
        states.append(msgspec.msgpack.encode(first.agent.state))
    (log,) = folder.glob("inputs-*")
    data = bytearray(log.read_bytes())
    if flip and data:
        data[-1 - min(cut, len(data) - 1)] ^= 0x40
    else:
        data = data[: max(0, len(data) - cut)]
    log.write_bytes(bytes(data))

    second = life(folder)
    second.recover(200.0)
    assert msgspec.msgpack.encode(second.agent.state) in states
    second.take(Input(Woken(incarnation=second.incarnation, resumed=True, at=200.0)), 200.0)
    second.take(message(heartbeat("z"), 999), 201.0)
    second.flush(201.0)
    third = life(folder)
    third.recover(300.0)
    assert third.agent.state == second.agent.state, "what was written after the damage isn't found"


def test_an_input_that_raises_leaves_the_state_as_before_and_is_told() -> None:
    core = JournaledCore(Toy(random.Random(1)), "toy", 1000, None)
    core.recover(90.0)
    for number in range(600):  # beyond two copies of the state
        core.take(message(heartbeat("a", number), number), 100.0 + number)
    before = msgspec.msgpack.encode(core.agent.state), core.agent.rng.getstate()
    step = core.take(message(ForceNode(node="a", do="include", reason="raise"), 1000), 1000.0)
    assert (msgspec.msgpack.encode(core.agent.state), core.agent.rng.getstate()) == before
    assert step is not None
    (effect,) = step.effects
    assert isinstance(effect, Publish)
    told: Any = effect.message
    assert (told.agent, told.input, told.cause) == ("toy", "ForceNode", "client:1:1000")
    assert "as you wish" in told.reason
    later = core.take(message(heartbeat("b"), 1001), 1001.0)
    assert later is not None
    assert [type(each).__name__ for each in later.effects] == ["Publish", "SetTimer"]


def test_ids_are_unique_over_lives_and_the_file_stays_bounded(tmp_path: Path) -> None:
    ids: list[str] = []
    for turn in range(4):
        core = life(tmp_path, limit=4000)
        core.recover(100.0 * turn)
        woken = Woken(incarnation=core.incarnation, resumed=turn > 0, at=100.0 * turn)
        core.take(Input(woken), 100.0 * turn)
        for number in range(100):
            force = message(ForceNode(node="a", do="include"), 1000 * turn + number)
            step = core.take(force, 100.0 * turn + number / 10)
            assert step is not None
            ids += [each.message.id for each in step.effects if isinstance(each, Publish)]
            core.finished(step)
            core.flush(100.0 * turn + number / 10)
            assert sum(path.stat().st_size for path in tmp_path.glob("inputs-*")) < 4000 + 1000
    assert len(ids) == len(set(ids)) == 4 * 100 * 3


def test_a_full_file_asks_for_rest_until_all_is_carried_out(tmp_path: Path) -> None:
    core = life(tmp_path, limit=500)
    core.recover(1.0)
    steps = []
    while not core.resting:
        step = core.take(message(ForceNode(node="a", do="include"), len(steps)), 2.0)
        assert step is not None
        steps.append(step)
        core.flush(2.0)
    for step in steps:
        core.finished(step)
    core.flush(3.0)
    assert not core.resting
    second = life(tmp_path)
    recovery = second.recover(4.0)
    assert (recovery.inputs, recovery.unfinished) == (0, [])
    assert second.agent.state == core.agent.state


def test_timers_of_an_earlier_life_are_still_set(tmp_path: Path) -> None:
    first = life(tmp_path)
    first.recover(1.0)
    first.take(message(heartbeat("a", interval=5.0), 1), 10.0)
    first.take(message(heartbeat("b", interval=2.0), 2), 10.0)
    first.close(11.0)
    second = life(tmp_path)
    second.recover(100.0)
    fired = []
    while (due := second.timers.pop_due(100.0)) is not None:
        fired.append(due)
    assert fired == [(Silence(node="b"), "client:1:2"), (Silence(node="a"), "client:1:1")]


def test_a_damaged_snapshot_is_refused_with_the_mend(tmp_path: Path) -> None:
    first = life(tmp_path)
    first.recover(1.0)
    first.close(2.0)
    (tmp_path / "snapshot").write_bytes(b"\0" * 100)
    with pytest.raises(JournalUnreadable, match="move the folder away"):
        life(tmp_path).recover(3.0)

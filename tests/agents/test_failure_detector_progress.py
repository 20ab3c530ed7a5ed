"""Alive is not working: a job's process whose steps stop is named, and its node ends it if it has seen none either."""

import random

from failure_detector_world import Detected

from agents.base import Publish, StartWork, StopWork
from agents.inputs import ProbeReturned, Woken, WorkExited
from agents.node import AbortWork, NodeAgent, NodeAgentSettings
from schemas.health import WorkStalled
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.nodes import NodeYielding, WorkFailed
from schemas.training import Doing, Roster, TrainingProgress


def works(world: Detected, node: str, seconds: float, every: float = 0.5, doing: Doing = "computing") -> None:
    """A process takes a step now and then, for a while."""
    for _ in range(int(seconds / every)):
        world.hear(TrainingProgress(job="j", node=node, round=1, doing=doing), world.lives[node])
        world.run(every)


def stalls(world: Detected) -> list[str]:
    return [stalled.node for stalled in world.all(WorkStalled)]


def at_work(every: float = 0.5) -> Detected:
    world = Detected("a", "b")
    world.run(10)
    works(world, "a", 40 * every, every)
    return world


def test_steps_that_stop_are_missed_once_and_named_by_their_usual_pace() -> None:
    world = at_work()
    world.run(60)
    assert stalls(world) == ["a"]
    stalled = world.all(WorkStalled)[0]
    assert 19.0 < stalled.silent_seconds < 30.0
    assert "0.5 s are usual" in stalled.reason
    works(world, "a", 10)
    world.run(60)
    assert stalls(world) == ["a"], "it went on by itself: such a silence is part of its life"
    world.run(400)
    assert stalls(world) == ["a", "a"]


def test_a_process_that_waits_or_is_slow_of_old_is_not_stalled() -> None:
    waiting = at_work()
    works(waiting, "a", 1, doing="waiting")
    waiting.run(120)
    assert stalls(waiting) == []
    slow = at_work(every=15.0)
    slow.run(60)
    assert stalls(slow) == []
    slow.run(60)
    assert stalls(slow) == ["a"]


def test_nothing_is_said_before_its_pace_is_known_nor_after_its_end() -> None:
    new = Detected("a", "b")
    new.run(10)
    works(new, "a", 5)
    new.run(300)
    assert stalls(new) == []
    over = at_work()
    over.hear(
        WorkFailed(node="a", job="j", attempt=1, kind="killed", code=-9, last_lines=(), retry=True, reason="killed"), 1
    )
    over.run(300)
    yielding = at_work()
    yielding.hear(NodeYielding(node="a", version=1, yielding=True, share=0.1, reason="a game"), 1)
    yielding.run(300)
    assert stalls(over) == stalls(yielding) == []


def test_a_machine_that_was_away_gets_its_time_anew() -> None:
    world = at_work()
    world.state["a"] = "stuck"
    world.run(2.8)
    world.state["a"] = "up"
    world.run(19)
    assert stalls(world) == []
    works(world, "a", 5)


def hosting(progress_at: float) -> NodeAgent:
    """A node with a job's process at work, which showed progress last at that time; it hears the server at 100."""
    node = NodeAgent(NodeAgentSettings(node="a"), random.Random(1))
    node.handle(Woken(incarnation=1, resumed=False, at=0.0), 0.0)
    request = JobRequest(kind="train", workload="w:w", rounds=5)
    state = JobState(
        job="j", version=1, state=JobPhase.RUNNING, reason="", round=0, rounds=5, request=request, submitted_at=0
    )
    node.handle(state, 1.0)
    node.handle(Roster(job="j", version=1, nodes=("a",), reducers=("a",), quorum=1, reason=""), 2.0)
    node.handle(TrainingProgress(job="j", node="a", round=1, doing="computing"), progress_at)
    for at in (95.0, 100.0):
        node.handle(ProbeReturned(sequence=1, rtt=0.01), at)
    return node


STALLED = WorkStalled(node="a", job="j", silent_seconds=20.0, usual_seconds=0.5, reason="no step for 20 s")


def test_the_node_ends_a_stalled_process_as_hung_and_starts_it_again() -> None:
    node = hosting(80.0)
    node.state.jobs["j"].progress_at = 80.0
    abort, stop = (e for e in node.handle(STALLED, 100.0) if isinstance(e, StartWork | StopWork))
    assert isinstance(abort, StartWork)
    assert abort.work == AbortWork(target="job/j")
    assert isinstance(stop, StopWork)
    node.check()
    after = node.handle(WorkExited(key="job/j", code=-6), 101.0)
    (failed,) = (e.message for e in after if isinstance(e, Publish) and isinstance(e.message, WorkFailed))
    assert (failed.kind, failed.retry) == ("hung", True)
    assert "no step for 20 s" in failed.reason


def test_a_node_that_has_seen_steps_or_nothing_at_all_leaves_it() -> None:
    node = hosting(96.0)
    assert node.handle(STALLED, 100.0) == [], "the detector missed what the node has seen"
    node = hosting(80.0)
    node.state.jobs["j"].progress_at = 80.0
    assert node.handle(STALLED, 111.0) == [], "the node hears nothing itself"

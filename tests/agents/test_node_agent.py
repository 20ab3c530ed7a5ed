"""A node's agent by direct calls: it lives, starts what rosters ask for, and judges how processes end."""

import random
from typing import Any

import pytest

from agents.base import CancelTimer, Effect, Probe, Publish, SetTimer, StartWork, StopWork
from agents.inputs import ProbeReturned, Stopping, Woken, WorkExited, WorkLines
from agents.node import AbortWork, MachineSampled, NodeAgent, NodeAgentSettings, SampleMachine, TrainingWork, policy
from agents.node.core import HeartbeatDue, NoProgress, ProbeDue, RestartDue
from agents.node.works import EXIT_BUS, EXIT_IMPORT, EXIT_MEMORY, EXIT_NOT_STARTED, EXIT_RAISED, OUT_OF_MEMORY_KILL
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.network import LinkProbed
from schemas.nodes import NodeHeartbeat, NodeLeaving, NodeProfile, WorkEnded, WorkFailed, WorkPrinted, WorkStarted
from schemas.training import Roster, TrainingProgress
from schemas.wire import Message

NOW = 1_000.0
KEY = "job/j"


def a_node(**settings: Any) -> NodeAgent:
    return NodeAgent(NodeAgentSettings(node="me", host="box", cpus=4, **settings), random.Random(1))


def woken(**settings: Any) -> NodeAgent:
    node = a_node(**settings)
    tell(node, Woken(incarnation=7, resumed=False, at=NOW))
    return node


def tell(node: NodeAgent, event: Any, now: float = NOW) -> list[Effect]:
    effects = node.handle(event, now)
    node.check()
    return effects


def said(effects: list[Effect], kind: type[Message]) -> list[Any]:
    return [e.message for e in effects if isinstance(e, Publish) and isinstance(e.message, kind)]


def works(effects: list[Effect]) -> list[StartWork | StopWork]:
    return [e for e in effects if isinstance(e, StartWork | StopWork)]


def a_state(version: int = 2, phase: JobPhase = JobPhase.RUNNING, at: float = 1.0, **fields: Any) -> JobState:
    request = JobRequest(kind="train", workload="m:w", id="j", hang_seconds=20.0, **fields)
    return JobState(
        id=f"job_desk:1:{version}",
        job="j",
        version=version,
        state=phase,
        reason="r",
        round=0,
        rounds=10,
        request=request,
        submitted_at=at,
    )


def a_roster(*nodes: str, version: int = 1) -> Roster:
    return Roster(id=f"sel:{version}", job="j", version=version, nodes=nodes, reducers=nodes[:1], quorum=1, reason="r")


def at_work(**settings: Any) -> NodeAgent:
    """A node whose process of job `j` runs."""
    node = woken(**settings)
    tell(node, a_state())
    assert works(tell(node, a_roster("me", "other")))
    return node


def exited(code: int, *lines: str) -> WorkExited:
    return WorkExited(key=KEY, code=code, last_lines=lines)


def test_it_introduces_itself_and_beats() -> None:
    node = a_node(emulated_link="poor", slowdown=2.0)
    effects = tell(node, Woken(incarnation=7, resumed=False, at=NOW))
    (profile,) = said(effects, NodeProfile)
    assert (profile.node, profile.version, profile.host, profile.cpus) == ("me", 1_000_000, "box", 4)
    assert (profile.emulated_link, profile.slowdown) == ("poor", 2.0)
    (beat,) = said(effects, NodeHeartbeat)
    assert (beat.sequence, beat.interval, beat.cpu_percent) == (1, 1.0, 0.0)
    assert SetTimer(timer=HeartbeatDue(), at=NOW + 1) in effects
    assert Probe(sequence=1, timeout=3.0) in effects
    assert any(isinstance(e, StartWork) and isinstance(e.work, SampleMachine) for e in effects)
    tell(node, MachineSampled(cpu_percent=12.5, memory_used_bytes=99))
    effects = tell(node, HeartbeatDue(), NOW + 1)
    (beat,) = said(effects, NodeHeartbeat)
    assert (beat.sequence, beat.cpu_percent, beat.memory_used_bytes) == (2, 12.5, 99)
    assert works(effects) == [], "it looks at the machine at every second beat"
    assert works(tell(node, HeartbeatDue(), NOW + 2))


def test_probes_become_messages() -> None:
    node = woken()
    assert Probe(sequence=2, timeout=3.0) in tell(node, ProbeDue(), NOW + 1)
    (probed,) = said(tell(node, ProbeReturned(sequence=1, rtt=0.025, retransmitted=0.1)), LinkProbed)
    assert (probed.node, probed.sequence, probed.rtt_ms, probed.retransmitted) == ("me", 1, 25.0, 0.1)
    (probed,) = said(tell(node, ProbeReturned(sequence=2, rtt=None)), LinkProbed)
    assert probed.rtt_ms is None


@pytest.mark.parametrize("roster_first", [False, True])
def test_a_process_starts_when_job_and_roster_ask_for_it(roster_first: bool) -> None:
    node = woken()
    first, second = (a_roster("me"), a_state()) if roster_first else (a_state(), a_roster("me"))
    assert works(tell(node, first)) == []
    effects = tell(node, second)
    (start,) = works(effects)
    assert isinstance(start, StartWork)
    assert start.key == KEY
    assert start.cause == second.id
    assert start.work == TrainingWork(job="j", request=a_state().request, attempt=1)
    (started,) = said(effects, WorkStarted)
    assert (started.job, started.attempt) == ("j", 1)
    assert SetTimer(timer=NoProgress(job="j"), at=NOW + 20 + 60, cause=second.id) in effects
    assert said(tell(node, HeartbeatDue()), NodeHeartbeat)[0].jobs == ("j",)


def test_it_starts_a_job_once() -> None:
    node = at_work()
    for event in (a_state(), a_state(version=3), a_roster("me"), a_roster("me", version=2)):
        assert works(tell(node, event)) == []


@pytest.mark.parametrize(
    "state", [a_state(phase=JobPhase.QUEUED), a_state(phase=JobPhase.COMPLETED), a_state(phase=JobPhase.CANCELLED)]
)
def test_what_doesnt_run_isnt_started(state: JobState) -> None:
    node = woken()
    tell(node, a_roster("me"))
    assert works(tell(node, state)) == []
    assert works(tell(node, a_roster("me", version=2))) == []


def test_another_nodes_roster_starts_nothing() -> None:
    node = woken()
    tell(node, a_state())
    assert works(tell(node, a_roster("you"))) == []


@pytest.mark.parametrize("event", [a_roster("other", version=2), a_state(version=3, phase=JobPhase.COMPLETED)])
def test_a_process_is_stopped_when_the_job_or_the_roster_lets_it_go(event: Any) -> None:
    node = at_work()
    effects = tell(node, event)
    (stop,) = works(effects)
    assert isinstance(stop, StopWork)
    assert CancelTimer(timer=NoProgress(job="j")) in effects
    effects = tell(node, exited(-15))
    (ended,) = said(effects, WorkEnded)
    assert ended.reason == stop.reason
    assert said(effects, WorkFailed) == []


def test_one_that_is_wanted_again_while_it_ends_starts_when_it_has_ended() -> None:
    node = at_work()
    tell(node, a_roster("other", version=2))
    assert works(tell(node, a_roster("me", version=3))) == [], "never two at once"
    (start,) = works(tell(node, exited(0)))
    assert isinstance(start, StartWork)
    assert isinstance(start.work, TrainingWork)
    assert start.work.attempt == 2


def test_failures_are_told_and_retried_with_growing_pauses() -> None:
    node = at_work()
    pauses = []
    now = NOW
    for attempt in (1, 2):
        effects = tell(node, exited(EXIT_RAISED, "Traceback (most recent call last):", "ValueError: no"), now)
        (failed,) = said(effects, WorkFailed)
        assert (failed.kind, failed.attempt, failed.retry) == ("raised", attempt, True)
        assert failed.last_lines[-1] == "ValueError: no"
        (timer,) = [e for e in effects if isinstance(e, SetTimer)]
        assert timer.timer == RestartDue(job="j")
        pauses.append(timer.at - now)
        assert works(tell(node, a_state(version=2 + attempt), now)) == [], "news of the job doesn't shorten the pause"
        now = timer.at
        (start,) = works(tell(node, RestartDue(job="j"), now))
        assert isinstance(start, StartWork)
    assert pauses == [1.0, 2.0]
    effects = tell(node, exited(EXIT_RAISED), now)
    (failed,) = said(effects, WorkFailed)
    assert (failed.attempt, failed.retry) == (3, False)
    assert "given up" in failed.reason
    assert works(tell(node, a_roster("me", version=2), now)) == []
    tell(node, a_roster("other", version=3), now)
    assert works(tell(node, a_roster("me", version=4), now)), "a roster that takes it in again asks for another try"


def test_a_long_healthy_run_forgives_earlier_failures() -> None:
    node = at_work(attempts=2)
    tell(node, exited(-9))
    tell(node, RestartDue(job="j"), NOW + 1)
    (failed,) = said(tell(node, exited(-9), NOW + 1 + 120), WorkFailed)
    assert failed.retry


def test_an_outage_of_the_server_is_no_reason_to_give_up() -> None:
    node = at_work()
    for _ in range(10):
        (failed,) = said(tell(node, exited(EXIT_BUS)), WorkFailed)
        assert (failed.kind, failed.retry) == ("start", True)
        assert works(tell(node, RestartDue(job="j")))


def test_a_job_that_was_ending_when_the_node_was_killed_is_forgotten_when_it_is_back() -> None:
    node = woken()
    tell(node, a_state())
    tell(node, a_roster("me"))
    tell(node, a_state(version=3, phase=JobPhase.COMPLETED))
    tell(node, Woken(incarnation=8, resumed=True, at=NOW + 1))
    assert node.state.jobs == {}


def test_the_end_of_a_job_ends_its_retries() -> None:
    node = at_work()
    tell(node, exited(-9))
    assert CancelTimer(timer=RestartDue(job="j")) in tell(node, a_state(version=3, phase=JobPhase.FAILED))
    assert works(tell(node, RestartDue(job="j"), NOW + 1)) == []
    assert node.state.jobs == {}


@pytest.mark.parametrize(
    ("code", "lines", "kind", "retry"),
    [
        (EXIT_IMPORT, ("ModuleNotFoundError: No module named 'm'",), "import", False),
        (EXIT_RAISED, ("ValueError: x",), "raised", True),
        (EXIT_MEMORY, (), "out_of_memory", True),
        (EXIT_RAISED, ("torch.OutOfMemoryError: CUDA out of memory. Tried to ...",), "out_of_memory", True),
        (EXIT_RAISED, ("MemoryError",), "out_of_memory", True),
        (-9, (OUT_OF_MEMORY_KILL,), "out_of_memory", True),
        (-9, (), "killed", True),
        (-11, ("Fatal Python error: Segmentation fault",), "killed", True),
        (EXIT_NOT_STARTED, ("No such file",), "start", True),
        (EXIT_BUS, ("Unreachable: nobody listens",), "start", True),
        (1, ("Traceback (most recent call last):", "KeyError: 1"), "raised", True),
        (2, ("usage: ...",), "start", True),
    ],
)
def test_kinds_of_failure(code: int, lines: tuple[str, ...], kind: str, retry: bool) -> None:
    node = at_work()
    (failed,) = said(tell(node, exited(code, *lines)), WorkFailed)
    assert (failed.kind, failed.retry, failed.code, failed.last_lines) == (kind, retry, code, lines)


def test_one_that_ends_by_itself_may_know_more_than_its_node() -> None:
    node = at_work()
    effects = tell(node, exited(0))
    assert said(effects, WorkFailed) == []
    assert said(effects, WorkEnded)
    assert works(effects) == []
    tell(node, a_state(version=3, phase=JobPhase.COMPLETED))
    assert works(tell(node, RestartDue(job="j"), NOW + 1)) == []


def test_one_that_always_ends_by_itself_is_given_up() -> None:
    node = at_work()
    for _ in range(2):
        assert said(tell(node, exited(0)), WorkFailed) == []
        tell(node, RestartDue(job="j"))
    (failed,) = said(tell(node, exited(0)), WorkFailed)
    assert (failed.kind, failed.retry) == ("start", False)


def test_no_progress_is_a_hang() -> None:
    node = at_work()
    effects = tell(node, TrainingProgress(job="j", node="me", round=1, doing="computing"), NOW + 50)
    assert [e.at for e in effects if isinstance(e, SetTimer)] == [NOW + 70]
    assert tell(node, TrainingProgress(job="j", node="other", round=1, doing="computing"), NOW + 60) == []
    tell(node, ProbeReturned(sequence=1, rtt=0.01), NOW + 69)
    abort, stop = works(tell(node, NoProgress(job="j"), NOW + 70))
    assert isinstance(abort, StartWork)
    assert abort.work == AbortWork(target=KEY)
    assert isinstance(stop, StopWork)
    assert stop.key == KEY
    assert works(tell(node, NoProgress(job="j"), NOW + 70)) == []
    effects = tell(node, exited(-6, 'File "w.py", line 3 in loss'), NOW + 71)
    (failed,) = said(effects, WorkFailed)
    assert (failed.kind, failed.retry, failed.last_lines) == ("hung", True, ('File "w.py", line 3 in loss',))
    assert failed.reason == "no progress for 20 s; starts again in 1 s"


def test_loading_has_longer() -> None:
    node = at_work()
    effects = tell(node, TrainingProgress(job="j", node="me", round=0, doing="loading"), NOW + 5)
    assert [e.at for e in effects if isinstance(e, SetTimer)] == [NOW + 5 + 20 + 60]


def test_a_silent_server_is_no_hang() -> None:
    node = at_work()
    effects = tell(node, NoProgress(job="j"), NOW + 80)
    assert works(effects) == [], "nothing was heard from the server either"
    assert [e.at for e in effects if isinstance(e, SetTimer)] == [NOW + 100]
    effects = tell(node, ProbeReturned(sequence=9, rtt=0.01), NOW + 99)
    assert SetTimer(timer=NoProgress(job="j"), at=NOW + 119, cause="") in effects, "the process gets its time anew"


def test_what_a_job_prints_is_passed_on_within_bounds() -> None:
    node = at_work(log_burst=5, log_lines_per_second=2.0, log_batch=2)
    effects = tell(node, WorkLines(key=KEY, lines=tuple("abcdefg")))
    assert [m.lines for m in said(effects, WorkPrinted)] == [("a", "b"), ("c", "d"), ("e",)]
    assert tell(node, WorkLines(key=KEY, lines=("h",))) == []
    (printed,) = said(tell(node, WorkLines(key=KEY, lines=("i", "j")), NOW + 1), WorkPrinted)[:1]
    assert printed.lines == ("[3 left out: more than 2 lines a second]", "i")
    assert tell(node, WorkLines(key=KEY, lines=("k",)), NOW + 1) == []
    (printed,) = said(tell(node, exited(-9), NOW + 1), WorkPrinted)
    assert printed.lines == ("[1 left out: more than 2 lines a second]",)


def test_stopping_is_a_goodbye() -> None:
    node = at_work()
    effects = tell(node, Stopping(reason="Ctrl-C"))
    assert said(effects, NodeLeaving) == [NodeLeaving(node="me", reason="Ctrl-C")]
    assert works(effects) == [StopWork(key=KEY, reason="Ctrl-C")]


def test_the_same_id_submitted_after_its_end_is_another_job() -> None:
    node = at_work()
    tell(node, a_state(version=3, phase=JobPhase.COMPLETED))
    tell(node, exited(0))
    assert works(tell(node, a_state(version=2))) == [], "an old state"
    assert works(tell(node, a_roster("me", version=9))) == [], "an old roster"
    tell(node, a_state(version=2, at=50.0))
    assert works(tell(node, a_roster("me")))


def test_rosters_of_unknown_jobs_dont_pile_up() -> None:
    node = woken()
    for number in range(400):
        tell(node, Roster(job=f"j{number}", version=1, nodes=("me",), reducers=(), quorum=1, reason="r"))
    assert len(node.state.jobs) == 256


def test_back_off_is_bounded_arithmetic() -> None:
    settings = NodeAgentSettings(node="me", back_off_seconds=1.0)
    assert [policy.back_off(failures, settings) for failures in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert policy.back_off(10_000, settings) < float("inf")

"""A node's agent under random histories, against a machine that counts processes."""

import random

import msgspec
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.base import CancelTimer, Effect, Publish, SetTimer, StartWork, StopWork
from agents.inputs import ProbeReturned, Woken, WorkExited, WorkLines
from agents.node import AbortWork, BundleArriving, MachineSampled, NodeAgent, NodeAgentSettings, TrainingWork, TrustChanged
from agents.node.core import HeartbeatDue, ProbeDue
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.nodes import NodeProfile, NodeYielding, PauseNode, WorkEnded, WorkFailed, WorkPrinted, WorkStarted
from schemas.training import Roster, TrainingProgress

JOBS = st.sampled_from(["j1", "j2"])
SETTINGS = NodeAgentSettings(node="me", yield_to_owner=True, attempts=2, log_burst=3, log_lines_per_second=1.0)


class Machine(RuleBasedStateMachine):
    """Two jobs whose states and rosters come in any order; processes that live, end and die."""

    def __init__(self) -> None:
        super().__init__()
        self.node = NodeAgent(SETTINGS, random.Random(0))
        self.now = 0.0
        self.timers: dict[msgspec.Struct, float] = {}
        self.processes: set[str] = set()
        self.asked_to_end: set[str] = set()
        self.open: dict[str, int] = {}
        """Attempts that were told to have started and not yet to have ended."""
        self.yields, self.said = False, -1
        """What was said last of yielding, and its version."""
        self.tell(Woken(incarnation=1, resumed=False, at=0.0))

    def tell(self, event: msgspec.Struct) -> None:
        for effect in self.node.handle(event, self.now):
            self.carry_out(effect)
        self.node.check()

    def carry_out(self, effect: Effect) -> None:
        if isinstance(effect, SetTimer):
            self.timers[effect.timer] = effect.at
        elif isinstance(effect, CancelTimer):
            self.timers.pop(effect.timer, None)
        elif isinstance(effect, StartWork) and isinstance(effect.work, TrainingWork):
            assert effect.key not in self.processes, "a second process of one job"
            self.processes.add(effect.key)
        elif isinstance(effect, StopWork):
            assert effect.key in self.processes
            assert effect.key not in self.asked_to_end, "asked twice"
            self.asked_to_end.add(effect.key)
        elif isinstance(effect, StartWork) and isinstance(effect.work, AbortWork):
            assert effect.work.target in self.processes
        elif isinstance(effect, Publish):
            self.hear(effect.message)

    def hear(self, message: msgspec.Struct) -> None:
        if isinstance(message, WorkStarted):
            assert message.job not in self.open
            self.open[message.job] = message.attempt
        elif isinstance(message, WorkEnded | WorkFailed):
            attempt = self.open.pop(message.job)
            assert not isinstance(message, WorkFailed) or message.attempt == attempt
        elif isinstance(message, NodeYielding):
            assert message.version > self.said
            self.yields, self.said = message.yielding, message.version
        elif isinstance(message, NodeProfile):
            self.yields, self.said = False, message.version
        elif isinstance(message, WorkPrinted):
            assert message.lines

    @rule(job=JOBS, version=st.integers(1, 6), phase=st.sampled_from(list(JobPhase)), life=st.integers(1, 2))
    def job_state(self, job: str, version: int, phase: JobPhase, life: int) -> None:
        request = JobRequest(kind="train", workload="m:w", id=job, hang_seconds=5.0)
        self.tell(
            JobState(
                job=job,
                version=version,
                state=phase,
                reason="r",
                round=0,
                rounds=9,
                request=request,
                submitted_at=float(life),
            )
        )

    @rule(job=JOBS, version=st.integers(1, 6), nodes=st.sampled_from([("me",), ("me", "other"), ("other",), ()]))
    def roster(self, job: str, version: int, nodes: tuple[str, ...]) -> None:
        self.tell(Roster(job=job, version=version, nodes=nodes, reducers=nodes, quorum=1, reason="r"))

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), code=st.sampled_from([0, 0, 3, 4, 5, 7, 8, -9, -15]))
    def end(self, data: st.DataObject, code: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.processes)))
        self.processes.discard(key)
        self.asked_to_end.discard(key)
        self.tell(WorkExited(key=key, code=code, last_lines=("E",)))

    @rule(job=JOBS, count=st.integers(1, 5))
    def print(self, job: str, count: int) -> None:
        self.tell(WorkLines(key=f"job/{job}", lines=("x",) * count))

    @rule(job=JOBS)
    def progress(self, job: str) -> None:
        self.tell(TrainingProgress(job=job, node="me", round=1, doing="computing"))

    @rule(job=JOBS)
    def code_arrives(self, job: str) -> None:
        self.tell(BundleArriving(job=job))

    @rule()
    def trust_changes(self) -> None:
        self.tell(TrustChanged())

    @rule(pauses=st.booleans())
    def pause(self, pauses: bool) -> None:
        self.tell(PauseNode(node="me", pause=pauses))

    @rule(percent=st.sampled_from([0.0, 100.0]))
    def look(self, percent: float) -> None:
        self.tell(MachineSampled(cpu_percent=percent, memory_used_bytes=1, owner_cpu_percent=percent))

    @rule(answered=st.booleans())
    def probe(self, answered: bool) -> None:
        self.tell(ProbeReturned(sequence=1, rtt=0.1 if answered else None))

    @rule(seconds=st.sampled_from([0.3, 3.0, 70.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer, at in self.timers.items() if at <= self.now]:
            if self.timers.pop(timer, None) is not None:
                self.tell(timer)

    @rule()
    def killed_and_back(self) -> None:
        """The node dies with its processes and comes back with an old state, or none."""
        kept = msgspec.msgpack.encode(self.node.state)
        state = msgspec.msgpack.decode(kept, type=type(self.node.state))
        self.node = NodeAgent(SETTINGS, random.Random(0), state)
        for gone in (self.timers, self.processes, self.asked_to_end, self.open):
            gone.clear()
        self.tell(Woken(incarnation=2, resumed=True, at=self.now))

    @invariant()
    def what_is_believed_to_run_runs(self) -> None:
        at_work = {f"job/{job}" for job, here in self.node.state.jobs.items() if here.at_work}
        assert at_work == self.processes
        assert {f"job/{job}" for job in self.open} == self.processes

    @invariant()
    def what_is_wanted_runs_or_will(self) -> None:
        for job, here in self.node.state.jobs.items():
            waits = any(getattr(timer, "job", "") == job for timer in self.timers)
            assert not here.wanted or here.at_work or waits or self.node.state.need.causes

    @invariant()
    def it_says_whether_it_yields(self) -> None:
        assert self.yields == bool(self.node.state.need.causes)

    @invariant()
    def it_beats(self) -> None:
        assert {HeartbeatDue(), ProbeDue()} <= set(self.timers)


Machine.TestCase.settings = limits(max_examples=35, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase

"""The recorder under random histories: bounded, and one report for every job's end."""

import random

import msgspec
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.base import CancelTimer, Publish, SetTimer, StartWork, Store
from agents.inputs import Woken, WorkExited
from agents.recorder import Recorder, RecorderSettings, RecorderState, ReportBuilt
from schemas.jobs import JobPhase, JobRequest, JobState, ReportReady
from schemas.network import LinkProbed

JOBS = st.sampled_from(["j1", "j2"])
SETTINGS = RecorderSettings(max_nodes=2, window_seconds=5.0, report_attempts=2, report_retry_seconds=3.0)


class World(RuleBasedStateMachine):
    """Jobs that end, perhaps told twice; reports that are written, or can't be; a recorder that is restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder(SETTINGS, random.Random(0))
        self.now = 1000.0
        self.timers: dict[msgspec.Struct, float] = {}
        self.writing: set[str] = set()
        self.over: dict[str, float] = {}
        """Jobs that ended, with when they were submitted."""
        self.ready: list[str] = []
        self.number = 0

    def tell(self, event: msgspec.Struct) -> None:
        for effect in self.recorder.handle(event, self.now):
            if isinstance(effect, SetTimer):
                self.timers[effect.timer] = effect.at
            elif isinstance(effect, CancelTimer):
                self.timers.pop(effect.timer, None)
            elif isinstance(effect, StartWork):
                self.writing.add(effect.key.removeprefix("report/"))
            elif isinstance(effect, Publish) and isinstance(effect.message, ReportReady):
                self.ready.append(effect.message.job)
            elif isinstance(effect, Store):
                msgspec.msgpack.encode(effect.row)
        self.recorder.check()

    @rule(job=JOBS, phase=st.sampled_from([JobPhase.RUNNING, JobPhase.COMPLETED, JobPhase.FAILED]), again=st.booleans())
    def job_state(self, job: str, phase: JobPhase, again: bool) -> None:
        if not again or job not in self.over:
            if job in self.over:
                return
            if phase.ended:
                self.over[job] = self.now
        self.number += 1
        state = JobState(
            id=f"d:1:{self.number}",
            job=job,
            version=self.number,
            state=phase,
            reason="r",
            round=0,
            rounds=1,
            request=JobRequest(kind="train", workload="m:w"),
            submitted_at=self.over.get(job, self.now),
        )
        self.tell(state)

    @rule(node=st.sampled_from("abc"), rtt=st.one_of(st.none(), st.floats(0, 1e6)))
    def probe(self, node: str, rtt: float | None) -> None:
        self.tell(LinkProbed(node=node, sequence=1, rtt_ms=rtt, at=self.now))

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), well=st.booleans())
    def write(self, data: st.DataObject, well: bool) -> None:
        job = data.draw(st.sampled_from(sorted(self.writing)))
        self.writing.discard(job)
        if well:
            self.tell(ReportBuilt(job=job, name="n", size=1, digest="d"))
        else:
            self.tell(WorkExited(key=f"report/{job}", code=1, last_lines=("no",)))

    @rule(seconds=st.sampled_from([0.5, 2.5, 20.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer, at in self.timers.items() if at <= self.now]:
            del self.timers[timer]
            self.tell(timer)

    @rule()
    def restart(self) -> None:
        kept = msgspec.msgpack.encode(self.recorder.state)
        self.recorder = Recorder(SETTINGS, random.Random(0), msgspec.msgpack.decode(kept, type=RecorderState))
        self.timers.clear()
        self.writing.clear()
        self.tell(Woken(incarnation=2, resumed=True, at=self.now))

    @invariant()
    def one_report_at_most(self) -> None:
        assert len(self.ready) == len(set(self.ready))

    @invariant()
    def what_is_due_is_under_way(self) -> None:
        for job in self.recorder.state.reports:
            assert job in self.writing or any(getattr(timer, "job", "") == job for timer in self.timers)


World.TestCase.settings = limits(max_examples=35, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase

"""The desk under random histories: whatever comes in, in any order and twice, its promises hold."""

import random

import msgspec
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents.base import Asked, Effect, Publish, Reply, SetTimer
from agents.inputs import Woken
from agents.job_desk import DeskState, JobDesk, JobDeskSettings
from schemas.decisions import NodeJoined, NodeLost
from schemas.jobs import CancelRequest, JobAnswer, JobPhase, JobQueued, JobRequest, JobState, ModelStored
from schemas.nodes import WorkFailed, WorkStarted
from schemas.training import Average, Roster, RoundClosed, Validated

JOBS = st.sampled_from(["j1", "j2", "j3"])
NODES = st.sampled_from(["a", "b", "c"])
SETTINGS = JobDeskSettings(max_unfinished=2, keep_ended=1, retention_seconds=30, finishing_seconds=10)


class Desk(RuleBasedStateMachine):
    """A world of three jobs and three nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = JobDesk(SETTINGS, random.Random(0))
        self.now = 0.0
        self.timers: dict[msgspec.Struct, float] = {}
        self.last: dict[str, JobState] = {}
        """What a spectator saw last of each job; forgotten jobs may be asked for again."""

    def tell(self, event: msgspec.Struct) -> list[Effect]:
        effects = self.desk.handle(event, self.now)
        self.desk.check()
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timers[effect.timer] = effect.at
            elif isinstance(effect, Publish) and isinstance(effect.message, JobState):
                self.see(effect.message)
        for job in list(self.last):
            if job not in self.desk.state.jobs:
                del self.last[job]
        return effects

    def see(self, state: JobState) -> None:
        before = self.last.get(state.job)
        if before is None:
            assert (state.version, state.state) == (1, JobPhase.QUEUED)
        else:
            assert not before.state.ended, "an ended job stays as it is"
            assert state.version == before.version + 1
            assert state.round >= before.round
        self.last[state.job] = state

    @rule(job=JOBS, rounds=st.integers(1, 2))
    def submit(self, job: str, rounds: int) -> None:
        known = self.desk.state.jobs.get(job)
        request = JobRequest(kind="train", workload="m:w", id=job, rounds=rounds, target_loss=1.0)
        reply = self.tell(Asked(reply_to="r", request=request, at=self.now))[-1]
        assert isinstance(reply, Reply)
        assert isinstance(reply.answer, JobAnswer)
        if known is not None:
            assert reply.answer.accepted == (known.request == request)
        assert not reply.answer.accepted or job in self.desk.state.jobs

    @rule(job=JOBS)
    def queue(self, job: str) -> None:
        self.tell(JobQueued(id=f"cli:{job}", request=JobRequest(kind="train", workload="m:w", id=job, rounds=2)))

    @rule(job=JOBS)
    def cancel(self, job: str) -> None:
        self.tell(Asked(reply_to="r", request=CancelRequest(job=job), at=self.now))

    @rule(node=NODES, alive=st.booleans())
    def node(self, node: str, alive: bool) -> None:
        joined = NodeJoined(node=node, returned=False, reason="r")
        self.tell(joined if alive else NodeLost(node=node, silent_seconds=1, reason="r"))

    @rule(job=JOBS, version=st.integers(1, 4), nodes=st.sets(NODES))
    def roster(self, job: str, version: int, nodes: set[str]) -> None:
        names = tuple(sorted(nodes))
        self.tell(Roster(job=job, version=version, nodes=names, reducers=names[:1], quorum=1, reason="r"))

    @rule(job=JOBS, number=st.integers(1, 3))
    def close(self, job: str, number: int) -> None:
        average = Average(key="k", size=1, digest="d", holders=())
        self.tell(
            RoundClosed(
                job=job,
                round=number,
                term=0,
                reducer="a",
                next_reducer="a",
                contributions=(),
                missing=(),
                average=average,
                samples=1,
                loss=2.0,
                seconds=1.0,
                on_time=True,
                reason="r",
            )
        )

    @rule(job=JOBS, loss=st.sampled_from([0.5, 1.5]))
    def validate(self, job: str, loss: float) -> None:
        self.tell(Validated(job=job, node="a", round=1, loss=loss, seconds=1.0))

    @rule(job=JOBS, final=st.booleans())
    def store(self, job: str, final: bool) -> None:
        self.tell(ModelStored(job=job, node="a", round=1, name="n", size=1, digest="d", final=final))

    @rule(job=JOBS, node=NODES, retry=st.booleans())
    def fail(self, job: str, node: str, retry: bool) -> None:
        self.tell(
            WorkFailed(node=node, job=job, attempt=1, kind="raised", code=4, last_lines=("E",), retry=retry, reason="r")
        )

    @rule(job=JOBS, node=NODES)
    def start(self, job: str, node: str) -> None:
        self.tell(WorkStarted(node=node, job=job, attempt=1, reason="r"))

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        for timer, at in sorted(self.timers.items(), key=lambda item: item[1]):
            if at <= self.now:
                del self.timers[timer]
                self.tell(timer)

    @rule()
    def restart(self) -> None:
        kept = msgspec.msgpack.encode(self.desk.state)
        self.desk = JobDesk(SETTINGS, random.Random(1), msgspec.msgpack.decode(kept, type=DeskState))
        self.timers.clear()
        self.tell(Woken(incarnation=2, resumed=True, at=self.now))

    @rule(job=JOBS)
    def hear_itself(self, job: str) -> None:
        if job in self.last:
            assert self.tell(self.last[job]) == []

    @invariant()
    def what_is_said_is_what_is_known(self) -> None:
        for job in self.desk.state.jobs.values():
            said = self.last[job.id]
            assert (said.version, said.state, said.reason) == (job.version, job.phase, job.reason)

    @invariant()
    def finishing_has_a_deadline(self) -> None:
        for job in self.desk.state.jobs.values():
            if job.phase is JobPhase.FINISHING:
                assert any(getattr(timer, "job", None) == job.id for timer in self.timers)


Desk.TestCase.settings = limits(max_examples=35, stateful_step_count=40, deadline=None)
TestDesk = Desk.TestCase

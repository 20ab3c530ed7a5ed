"""The batch controller under any mix of events: invariants after each, and decisions that don't depend on names."""

import random
from typing import Any

import msgspec
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agents.batch_controller import BatchController, BatchControllerSettings, BatchControllerState
from agents.effects import Publish, SetTimer, Timer
from agents.inputs import Woken
from schemas.decisions import NodeLost
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeProfile, WorkFailed
from schemas.training import (
    Assignment,
    Average,
    Contribution,
    ContributionReceived,
    Roster,
    RoundClosed,
    StepTimed,
    TrainerReady,
    TransferTimed,
    Tuning,
)

NODES = ("n1", "n2", "n3", "n4", "n5")
NODE = st.sampled_from(NODES)
SECONDS = st.sampled_from([0.001, 0.05, 0.3, 2.0, 40.0])
RENAMED = {"n1": "m3", "n2": "m1", "n3": "m5", "n4": "m2", "n5": "m4"}


def renamed(value: Any) -> Any:
    """The same message of a fleet in which every node has another name (and another place in any order)."""
    if isinstance(value, str):
        return RENAMED.get(value, value)
    if isinstance(value, tuple):
        return tuple(renamed(item) for item in value)
    if isinstance(value, dict):
        return {renamed(key): renamed(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        fields = {field: renamed(getattr(value, field)) for field in value.__struct_fields__}
        return type(value)(**fields)
    return value


def decisions(assignment: Assignment) -> tuple[Any, ...]:
    """All of an assignment but its words."""
    shares = dict(sorted(assignment.shares.items()))
    return shares, assignment.version, assignment.average_encoding, assignment.round_seconds, assignment.deadline_seconds


class ControllerMachine(RuleBasedStateMachine):
    """Drives a controller; a twin from its serialised state and one of a renamed fleet must decide the same."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = BatchControllerSettings()
        self.core = BatchController(self.settings, random.Random(0))
        self.mirror = BatchController(self.settings, random.Random(0))
        self.now = 0.0
        self.timers: dict[Timer, float] = {}
        self.latest: Assignment | None = None
        self.factor = 2.0
        self.adapt = True
        self.version = self.round = 0
        self.roster: tuple[str, ...] = ()
        self.free_to_jump = True

    def tell(self, event: msgspec.Struct, roster_changes: bool = False) -> None:
        memory = msgspec.msgpack.encode(self.core.state)
        twin = BatchController(self.settings, random.Random(0), msgspec.msgpack.decode(memory, type=BatchControllerState))
        effects = self.core.handle(event, self.now)
        assert twin.handle(event, self.now) == effects, "the state doesn't hold all that the core knows"
        mirrored = self.mirror.handle(renamed(event), self.now)
        self.core.check()
        said = [effect.message for effect in effects if isinstance(effect, Publish)]
        mirror_said = [effect.message for effect in mirrored if isinstance(effect, Publish)]
        for message, other in zip(said, mirror_said, strict=True):
            assert isinstance(message, Assignment)
            assert isinstance(other, Assignment)
            assert decisions(renamed(message)) == decisions(other)
            self.judge(message, roster_changes)
            self.latest = message
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timers[effect.timer] = effect.at

    def judge(self, message: Assignment, roster_changes: bool) -> None:
        assert message.reason
        assert set(message.shares) == set(self.roster)
        if self.latest is None:
            return
        assert message.version == self.latest.version + 1
        for name in set(message.shares) & set(self.latest.shares):
            old, new = self.latest.shares[name], message.shares[name]
            if self.free_to_jump:
                continue
            sizes = (old.microbatch, new.microbatch)
            now = min(old.local_steps, self.request.local_steps * new.every)
            if self.request.batch == "goodput" and self.request.sync == "round":
                now = old.local_steps  # its rounds are longer than asked
            oftener = new.every < old.every  # fewer steps, then, between two contributions
            if self.adapt:
                assert max(sizes) <= max(2.0, self.factor) * min(sizes)
                assert new.local_steps <= max(now * self.factor, now + 1), "from what it was, or may be asked of it now"
                assert oftener or new.local_steps >= min(now / self.factor, now - 1)
            else:
                assert sizes[0] == sizes[1]
                assert new.local_steps <= now if oftener else new.local_steps == now

    @initialize(
        batch=st.sampled_from(["fixed", "latency", "throughput", "hybrid", "goodput"]),
        encoding=st.sampled_from(["auto", "auto", "int8", "topk"]),
        microbatch=st.sampled_from([1, 8, 10, 64]),
        steps=st.sampled_from([1, 7, 40]),
        sync=st.sampled_from(["round", "round", "step"]),
    )
    def submits(self, batch: Any, encoding: Any, microbatch: int, steps: int, sync: Any) -> None:
        self.request = JobRequest(
            kind="train",
            workload="work:load",
            batch=batch,
            encoding=encoding,
            microbatch=microbatch,
            microbatch_min=1,
            microbatch_max=100,
            local_steps=steps,
            sync=sync,
        )
        self.free_to_jump = False
        self.roster = NODES[:3]
        self.says_state()
        self.enrols(set(NODES[:3]))

    @rule()
    def says_state(self) -> None:
        self.version += 1
        self.tell(
            JobState(
                job="j",
                version=self.version,
                state=JobPhase.RUNNING,
                reason="",
                round=self.round,
                rounds=99,
                request=self.request,
                submitted_at=0.0,
            )
        )

    @rule(members=st.sets(NODE, min_size=1))
    def enrols(self, members: set[str]) -> None:
        self.version += 1
        self.roster = tuple(sorted(members))
        quorum = len(members) // 2 + 1
        event = Roster(job="j", version=self.version, nodes=self.roster, reducers=(), quorum=quorum, reason="choice")
        self.tell(event, roster_changes=True)

    @rule(node=NODE, grade=st.sampled_from(list(LinkQuality)), latency=st.floats(0, 2000))
    def regrades(self, node: str, grade: LinkQuality, latency: float) -> None:
        self.version += 1
        self.tell(
            LinkQualityChanged(
                node=node,
                version=self.version,
                quality=grade,
                previous=None,
                score=50.0,
                latency_ms=latency,
                jitter_ms=1.0,
                loss=0.01,
                trend="stable",
                reason="",
            )
        )

    @rule(node=NODE, slowdown=st.sampled_from([1.0, 3.0]), step_time_ms=st.sampled_from([0.0, 200.0]))
    def comes_up(self, node: str, slowdown: float, step_time_ms: float) -> None:
        self.version += 1
        event = NodeProfile(node=node, version=self.version, host="h", site="h", cpus=2, memory_bytes=1)
        self.tell(msgspec.structs.replace(event, slowdown=slowdown, step_time_ms=step_time_ms))

    @rule(node=NODE, seconds=SECONDS, microbatch=st.sampled_from([1, 8, 64]), steps=st.sampled_from([0, 1, 10]))
    def times_steps(self, node: str, seconds: float, microbatch: int, steps: int) -> None:
        event = StepTimed(
            job="j",
            node=node,
            round=1,
            steps=steps,
            samples=steps * microbatch,
            seconds=seconds,
            microbatch=microbatch,
            loss=1,
        )
        self.tell(event)

    @rule(node=NODE, seconds=SECONDS, size=st.sampled_from([0, 1000, 4_000_000]))
    def carries(self, node: str, seconds: float, size: int) -> None:
        self.tell(ContributionReceived(job="j", node="r", contributor=node, round=1, size=size, seconds=seconds))
        self.tell(TransferTimed(job="j", node=node, direction="down", bytes=size, seconds=seconds, streams=1))

    @rule(parameters=st.sampled_from([0, 1000, 10_000_000]))
    def is_ready(self, parameters: int) -> None:
        self.tell(TrainerReady(job="j", node="n1", version=0, digest="", parameters=parameters, device="cpu"))

    @rule(missing=st.sets(NODE, max_size=2), seconds=SECONDS)
    def closes(self, missing: set[str], seconds: float) -> None:
        self.round += 1
        there = [node for node in self.roster if node not in missing]
        self.tell(
            RoundClosed(
                job="j",
                round=self.round,
                term=1,
                reducer="n1",
                next_reducer="n1",
                contributions=tuple(
                    Contribution(node=node, round=self.round, late=0, samples=1, weight=0.5, loss=1.0) for node in there
                ),
                missing=tuple(sorted(missing)),
                average=Average(key="", size=1, digest="", holders=()),
                samples=1,
                loss=1.0,
                seconds=seconds,
                on_time=not missing,
                reason="",
            )
        )

    @rule(adapt=st.booleans(), factor=st.sampled_from([1.0, 1.5, 2.0, 4.0]))
    def tunes(self, adapt: bool, factor: float) -> None:
        self.version += 1
        self.adapt, self.factor = adapt, factor
        event = Tuning(
            job="j", version=self.version, phase="adaptive", policy="reactive", adapt=adapt, max_factor=factor, reason="so"
        )
        self.tell(event)

    @rule(back=st.integers(0, 15))
    def rolls_back(self, back: int) -> None:
        if self.latest is None:
            return
        self.version += 1
        self.adapt, self.factor = True, 2.0
        self.free_to_jump = True
        event = Tuning(
            job="j", version=self.version, phase="adaptive", policy="reactive", adapt=True, max_factor=2.0, reason="worse"
        )
        self.tell(msgspec.structs.replace(event, rollback_to=self.latest.version - back))
        self.free_to_jump = False

    @rule(node=NODE)
    def runs_out_of_memory(self, node: str) -> None:
        self.free_to_jump = True
        event = WorkFailed(
            node=node, job="j", attempt=1, kind="out_of_memory", code=1, last_lines=(), retry=True, reason="no memory"
        )
        self.tell(event)
        self.free_to_jump = False

    @rule(node=NODE)
    def dies(self, node: str) -> None:
        self.tell(NodeLost(node=node, silent_seconds=5.0, reason="silent"))

    @rule(seconds=st.floats(0.1, 5))
    def waits(self, seconds: float) -> None:
        self.now += seconds
        for timer, at in sorted(self.timers.items(), key=lambda item: item[1]):
            if at <= self.now:
                del self.timers[timer]
                self.tell(timer)

    @rule()
    def restarts(self) -> None:
        self.tell(Woken(incarnation=2, resumed=True, at=0.0))

    @rule()
    def hears_itself(self) -> None:
        if self.latest is not None:
            before = msgspec.msgpack.encode(self.core.state)
            self.core.handle(self.latest, self.now)
            assert msgspec.msgpack.encode(self.core.state) == before

    @invariant()
    def holds(self) -> None:
        self.core.check()


ControllerMachine.TestCase.settings = hypothesis_settings(max_examples=35, stateful_step_count=40, deadline=None)
TestControllerMachine = ControllerMachine.TestCase

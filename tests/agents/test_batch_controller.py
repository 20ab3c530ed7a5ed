"""The batch controller's core, called directly with a virtual clock and a fleet whose speeds are known."""

import random
from typing import Any

import msgspec
import pytest

from agents.batch_controller import BatchController, BatchControllerSettings, BatchControllerState
from agents.batch_controller.state import Reconsider, Settled
from agents.effects import Publish, SetTimer, Timer
from agents.inputs import Woken
from schemas.decisions import NodeLost
from schemas.jobs import Encoding, JobPhase, JobRequest, JobState
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeProfile, WorkFailed
from schemas.training import (
    Assignment,
    Average,
    Contribution,
    ContributionReceived,
    Roster,
    RoundClosed,
    Share,
    StepTimed,
    TrainerReady,
    TransferTimed,
    Tuning,
)

LINKS = {  # round trip in ms, bytes/s of one connection, of the line
    "excellent": (1.0, 100e6, 120e6),
    "good": (30.0, 5e6, 24e6),
    "fair": (100.0, 450e3, 6e6),
    "poor": (225.0, 50e3, 2.4e6),
    "critical": (275.0, 45e3, 1.2e6),
}
BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0 + 4 / 256, "int4": 0.5 + 4 / 128, "topk": 2 / 32 + 4 / 256 / 32}


DEFAULTS = BatchControllerSettings()


class Fleet:
    """A controller, and nodes of known speed (seconds a sample and a step) and link that do what it says."""

    def __init__(
        self,
        nodes: dict[str, tuple[float, str]],
        parameters: int = 1_000_000,
        settings: BatchControllerSettings = DEFAULTS,
        **request: Any,
    ) -> None:
        self.core = BatchController(settings, random.Random(0))
        self.now = 100.0
        self.timers: dict[Timer, tuple[float, str]] = {}
        self.said: list[tuple[str, Assignment]] = []
        self.nodes = dict(nodes)
        self.parameters = parameters
        self.request = JobRequest(kind="train", workload="work:load", **request)
        self.round = self.roster_version = self.events = 0
        self.link_version: dict[str, int] = {}
        self.roster_quorum: int | None = None

    def tell(self, event: msgspec.Struct, cause: str = "") -> list[Assignment]:
        self.events += 1
        before = len(self.said)
        for effect in self.core.handle(event, self.now, cause=cause or f"event:{self.events}"):
            if isinstance(effect, SetTimer):
                self.timers[effect.timer] = (effect.at, effect.cause)
            elif isinstance(effect, Publish):
                assert isinstance(effect.message, Assignment)
                self.said.append((effect.cause, effect.message))
        self.core.check()
        return [message for _, message in self.said[before:]]

    def wait(self, seconds: float) -> list[Assignment]:
        self.now += seconds
        told = []
        due = sorted((at, repr(timer), timer, cause) for timer, (at, cause) in self.timers.items() if at <= self.now)
        for _, _, timer, cause in due:
            del self.timers[timer]
            told += self.tell(timer, cause)
        return told

    def begin(self, grades: bool = True) -> "Fleet":
        self.state(1)
        for name in sorted(self.nodes):
            self.tell(NodeProfile(node=name, version=1, host=name, site=name, cpus=2, memory_bytes=1))
            if grades:
                self.grade(name, self.nodes[name][1])
        self.enrol()
        self.tell(
            TrainerReady(job="j", node="a", version=0, digest="", parameters=self.parameters, device="cpu"),
        )
        self.wait(1.0)
        return self

    def state(self, version: int, phase: JobPhase = JobPhase.RUNNING) -> list[Assignment]:
        return self.tell(
            JobState(
                job="j",
                version=version,
                state=phase,
                reason="",
                round=self.round,
                rounds=99,
                request=self.request,
                submitted_at=0.0,
            )
        )

    def enrol(self, reason: str = "the fleet") -> list[Assignment]:
        self.roster_version += 1
        names = tuple(sorted(self.nodes))
        return self.tell(
            Roster(
                job="j",
                version=self.roster_version,
                nodes=names,
                reducers=names[:2],
                quorum=self.roster_quorum or len(names) // 2 + 1,
                reason=reason,
            )
        )

    def grade(self, name: str, grade: str) -> list[Assignment]:
        self.nodes[name] = (self.nodes[name][0], grade)
        self.link_version[name] = self.link_version.get(name, 0) + 1
        return self.tell(
            LinkQualityChanged(
                node=name,
                version=self.link_version[name],
                quality=LinkQuality(grade),
                previous=None,
                score=50.0,
                latency_ms=LINKS.get(grade, (0.0,))[0],
                jitter_ms=1.0,
                loss=0.04,
                trend="stable",
                reason="",
            )
        )

    def tune(self, version: int, **fields: Any) -> list[Assignment]:
        usual = {"phase": "adaptive", "policy": "reactive", "adapt": True, "max_factor": 2.0, "reason": "tuned"}
        values: dict[str, Any] = {**usual, **fields}
        return self.tell(Tuning(job="j", version=version, **values))

    @property
    def latest(self) -> Assignment:
        return [message for _, message in self.said if message.job == "j"][-1]

    def share(self, name: str) -> Share:
        return self.latest.shares[name]

    def rate(self, name: str) -> float:
        _, stream, line = LINKS[self.nodes[name][1]]
        return min(line, stream * self.share(name).streams)

    def step(self, name: str) -> float:
        return self.step_of(name, self.share(name).microbatch)

    def step_of(self, name: str, microbatch: int) -> float:
        return self.nodes[name][0] * microbatch

    def transfers(self, name: str) -> tuple[float, float]:
        wait = LINKS[self.nodes[name][1]][0] / 1e3
        encodings: tuple[Encoding, Encoding] = (self.share(name).encoding, self.latest.average_encoding)
        up, down = (wait + self.parameters * BYTES[encoding] / self.rate(name) for encoding in encodings)
        return up, down

    def time(self, name: str) -> float:
        """What the node's present share truly takes."""
        return self.share(name).local_steps * self.step(name) + sum(self.transfers(name))

    def train(self, rounds: int = 1, missing: tuple[str, ...] = ()) -> None:
        for _ in range(rounds):
            self.round += 1
            assignment = self.latest
            for name in sorted(self.nodes):
                share = assignment.shares[name]
                self.tell(
                    StepTimed(
                        job="j",
                        node=name,
                        round=self.round,
                        steps=share.local_steps,
                        samples=share.local_steps * share.microbatch,
                        seconds=share.local_steps * self.step_of(name, share.microbatch),
                        microbatch=share.microbatch,
                        loss=1.0,
                    )
                )
            self.wait(1.0)
            for name in sorted(self.nodes):
                self.carry(name)
            self.wait(1.0)
            self.close(missing)
            self.wait(1.0)

    def carry(self, name: str) -> None:
        up, down = self.transfers(name)
        size = int(self.parameters * BYTES[self.share(name).encoding])
        self.tell(
            ContributionReceived(job="j", node="elsewhere", contributor=name, round=self.round, size=size, seconds=up)
        )
        size = int(self.parameters * BYTES[self.latest.average_encoding])
        streams = self.share(name).streams
        self.tell(TransferTimed(job="j", node=name, direction="down", bytes=size, seconds=down, streams=streams))

    def close(self, missing: tuple[str, ...] = ()) -> list[Assignment]:
        counted = [name for name in sorted(self.nodes) if name not in missing]
        regular = [self.time(name) for name in counted if self.share(name).every == 1]
        return self.tell(
            RoundClosed(
                job="j",
                round=self.round,
                term=1,
                reducer="a",
                next_reducer="a",
                contributions=tuple(
                    Contribution(node=name, round=self.round, late=0, samples=1, weight=0.1, loss=1.0) for name in counted
                ),
                missing=missing,
                average=Average(key="", size=1, digest="", holders=()),
                samples=1,
                loss=1.0,
                seconds=max(regular),
                on_time=not missing,
                reason="",
            )
        )


EQUAL = {"a": (0.02, "excellent"), "b": (0.02, "excellent"), "c": (0.02, "excellent")}
UNEQUAL = {"a": (0.02, "excellent"), "b": (0.02, "excellent"), "c": (0.06, "excellent")}


def test_first_shares_come_with_the_job_and_its_roster_and_a_generous_deadline() -> None:
    fleet = Fleet(EQUAL)
    assert fleet.state(1) == []
    (first,) = fleet.enrol()
    assert first.version == 1
    assert set(first.shares) == {"a", "b", "c"}
    assert first.deadline_seconds == 30.0
    assert "first shares" in first.reason
    assert fleet.said[0][0] == "event:2", "its cause is the roster"


def test_the_roster_may_come_before_the_job() -> None:
    fleet = Fleet(EQUAL)
    assert fleet.enrol() == []
    assert len(fleet.state(1)) == 1


def test_steps_become_proportional_to_measured_speed() -> None:
    fleet = Fleet(UNEQUAL, batch="latency", local_steps=12).begin()
    assert {share.local_steps for share in fleet.latest.shares.values()} == {12}
    fleet.train(3)
    steps = {name: share.local_steps for name, share in fleet.latest.shares.items()}
    assert steps == {"a": 12, "b": 12, "c": 4}
    times = [fleet.time(name) for name in "abc"]
    assert max(times) <= 1.1 * min(times), "all finish together"
    assert any("c: steps" in message.reason and "a step takes 0.48 s" in message.reason for _, message in fleet.said)


def test_a_fleet_at_rest_gets_no_new_assignments() -> None:
    for strategy in ("latency", "throughput", "hybrid"):
        fleet = Fleet({"a": (0.02, "excellent"), "b": (0.03, "good"), "c": (0.03, "fair")}, batch=strategy).begin()
        fleet.train(25)
        said = len(fleet.said)
        fleet.train(20)
        assert len(fleet.said) == said, fleet.latest.reason


def test_slowdowns_that_nodes_tell_of_are_planned_with_before_anything_is_measured() -> None:
    fleet = Fleet(EQUAL, local_steps=12)
    for name, slowdown in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
        fleet.tell(NodeProfile(node=name, version=1, host=name, site=name, cpus=2, memory_bytes=1, slowdown=slowdown))
    fleet.state(1)
    fleet.enrol()
    assert [fleet.share(name).local_steps for name in "abc"] == [12, 6, 3]


def test_an_unmeasured_newcomer_is_judged_by_how_the_others_compare_to_their_hints() -> None:
    fleet = Fleet(EQUAL, batch="latency", local_steps=12).begin()
    fleet.train(3)
    fleet.nodes["d"] = (0.06, "excellent")
    fleet.grade("d", "excellent")
    fleet.tell(NodeProfile(node="d", version=1, host="d", site="d", cpus=2, memory_bytes=1, slowdown=3.0))
    (message,) = fleet.enrol()
    assert message.shares["d"].local_steps == 4
    assert message.shares["a"] == fleet.said[-2][1].shares["a"]
    assert "d comes in with 4 x 8 samples" in message.reason


def test_a_link_that_degrades_changes_the_nodes_share_and_says_why() -> None:
    fleet = Fleet(EQUAL | {"d": (0.02, "fair")}, parameters=6_000, local_steps=40, batch="latency").begin()
    fleet.train(8)
    before = fleet.share("d")
    assert (before.encoding, before.streams) == ("float16", 16)
    assert fleet.grade("d", "poor") == [], "what comes together is looked at together"
    (message,) = fleet.wait(1.0)
    after = message.shares["d"]
    assert (after.encoding, after.streams) == ("int8", 32)
    assert after.microbatch == 2 * before.microbatch
    assert "d: microbatch" in message.reason
    assert "int8 over 32 connections" in message.reason
    assert "link fair -> poor" in message.reason
    assert message.average_encoding == "int8"
    assert fleet.said[-1][0] == f"event:{fleet.events - 1}", "its cause is the change of the link"


def test_a_link_that_improves_takes_it_back() -> None:
    fleet = Fleet(EQUAL | {"d": (0.02, "good")}).begin()
    fleet.train(8)
    before = fleet.share("d")
    fleet.grade("d", "poor")
    fleet.wait(1.0)
    fleet.train(6)
    fleet.grade("d", "good")
    fleet.wait(1.0)
    fleet.train(30)
    after = fleet.share("d")
    assert (after.encoding, after.streams, after.every) == (before.encoding, before.streams, before.every)
    assert after.microbatch <= 2 * before.microbatch


def test_an_upload_that_takes_too_long_gets_coarser_a_level_a_round_and_finer_again() -> None:
    far = EQUAL | {"d": (0.02, "poor")}
    asked: dict[str, Any] = {"local_steps": 10, "batch": "latency"}
    usual = Fleet(far, 2_400_000, **asked).begin()
    usual.train(8)
    assert {message.shares["d"].encoding for _, message in usual.said[1:]} == {"int8"}, "no coarser unless it is allowed"
    fleet = Fleet(far, 2_400_000, BatchControllerSettings(coarsest="topk"), **asked).begin()
    fleet.train(8)
    seen = [message.shares["d"].encoding for _, message in fleet.said]
    assert list(dict.fromkeys(seen)) == ["int8", "int4", "topk"]
    assert all(message.average_encoding == "int8" for _, message in fleet.said)
    reason = next(message.reason for _, message in fleet.said if message.shares["d"].encoding == "topk")
    assert "its upload in int4 takes" in reason
    fleet.nodes["d"] = (0.02, "good")  # it carries more now, and its grade doesn't show it yet
    fleet.train(16)
    assert fleet.share("d").encoding == "int8", "as fine as its grade allows"
    told = len(fleet.said)
    fleet.train(8)
    assert {message.shares["d"].encoding for _, message in fleet.said[told:]} <= {"int8"}


@pytest.mark.parametrize("batch", ["fixed", "hybrid"])
@pytest.mark.parametrize("encoding", ["int4", "topk"])
def test_a_job_in_a_coarse_encoding_averages_in_int8(batch: str, encoding: str) -> None:
    fleet = Fleet(EQUAL, encoding=encoding, batch=batch).begin()
    fleet.train(3)
    assert {share.encoding for share in fleet.latest.shares.values()} == {encoding}
    assert fleet.latest.average_encoding == "int8"


def test_a_link_too_slow_for_each_round_contributes_every_few() -> None:
    fleet = Fleet(EQUAL | {"d": (0.02, "critical")}, parameters=4_000_000, batch="latency", local_steps=20).begin()
    fleet.train(6)
    assert fleet.share("d").every > 1
    assert all(fleet.share(name).every == 1 for name in "abc")
    alone = max(fleet.time(name) for name in "abc")
    assert fleet.latest.round_seconds == pytest.approx(alone, rel=0.2), "the others don't wait for it"


def test_the_round_is_never_too_short_for_a_quorum() -> None:
    slow = dict.fromkeys("bcde", (0.02, "critical"))
    fleet = Fleet({"a": (0.02, "excellent")} | slow, parameters=4_000_000).begin()
    fleet.train(6)
    assert sum(share.every == 1 for share in fleet.latest.shares.values()) >= 3


def test_when_too_few_contribute_to_each_round_the_next_fastest_do_and_no_others() -> None:
    far = {"c": (0.02, "poor"), "d": (0.02, "critical"), "e": (0.03, "critical")}
    nodes = {"a": (0.02, "excellent"), "b": (0.02, "excellent")} | far
    fleet = Fleet(nodes, parameters=4_000_000, batch="latency", local_steps=20).begin()
    fleet.roster_quorum = 2
    fleet.enrol()
    fleet.train(8)
    assert {name for name, share in fleet.latest.shares.items() if share.every == 1} == {"a", "b"}
    del fleet.nodes["b"]
    fleet.enrol("b was lost")
    assert {name for name, share in fleet.latest.shares.items() if share.every == 1} == {"a", "c"}


def test_a_larger_microbatch_means_fewer_steps_not_a_longer_round() -> None:
    fleet = Fleet({"a": (0.02, "excellent"), "b": (0.02, "excellent")}, batch="throughput", local_steps=16).begin()
    samples = 16 * fleet.request.microbatch
    fleet.train(14)
    sizes = [message.shares["a"].microbatch for _, message in fleet.said]
    assert max(sizes) > fleet.request.microbatch, "nothing was tried"
    for _, assignment in fleet.said[1:]:  # the first was before anything was measured
        assert assignment.round_seconds <= 1.3 * samples * 0.02
        assert all(share.microbatch * share.local_steps <= samples for share in assignment.shares.values())


def test_deadlines_are_learned_from_measurements() -> None:
    fleet = Fleet(EQUAL, batch="latency").begin()
    fleet.train(3)
    assert fleet.latest.deadline_seconds < 30
    assert fleet.latest.deadline_seconds >= 1.5 * max(fleet.time(name) for name in "abc")
    fixed = Fleet(EQUAL, deadline_seconds=7.0).begin()
    fixed.train(3)
    assert fixed.latest.deadline_seconds == 7.0


def test_who_misses_deadlines_gets_less_until_in_time_again() -> None:
    fleet = Fleet(EQUAL, batch="latency", local_steps=16).begin()
    fleet.train(3)
    assert fleet.share("c").local_steps == 16
    fleet.train(3, missing=("c",))
    low = fleet.share("c").local_steps
    assert low <= 8
    assert any("missed" in message.reason for _, message in fleet.said)
    fleet.train(8)
    assert fleet.share("c").local_steps == 16


def test_a_step_that_takes_longer_than_a_round_gets_smaller() -> None:
    fleet = Fleet(EQUAL | {"d": (0.4, "excellent")}, batch="latency", local_steps=10).begin()
    fleet.train(8)
    share = fleet.share("d")
    assert (share.microbatch, share.local_steps) == (4, 1)
    assert any("one step of 8 samples takes longer than a round" in message.reason for _, message in fleet.said)


def test_fixed_stays_equal_whatever_happens() -> None:
    fleet = Fleet(UNEQUAL, batch="fixed", local_steps=7, microbatch=16).begin()
    fleet.train(4, missing=("c",))
    fleet.grade("b", "critical")
    fleet.wait(1.0)
    fleet.train(4)
    assert len(fleet.said) == 1
    for share in fleet.latest.shares.values():
        assert share == Share(microbatch=16, local_steps=7, encoding="float32", streams=1, every=1)
    assert fleet.latest.average_encoding == "float32"


def test_an_encoding_that_was_asked_for_is_kept() -> None:
    fleet = Fleet(EQUAL | {"d": (0.02, "poor")}, encoding="float16").begin()
    fleet.train(5)
    assert {share.encoding for share in fleet.latest.shares.values()} == {"float16"}
    assert fleet.latest.average_encoding == "float16"


def test_without_leave_to_adapt_work_changes_with_the_roster_alone() -> None:
    fleet = Fleet(UNEQUAL).begin()
    fleet.tune(1, adapt=False, phase="warm_up")
    fleet.train(4)
    assert len(fleet.said) == 1
    first = dict(fleet.latest.shares)
    fleet.grade("b", "poor")
    fleet.wait(1.0)
    before = dict(fleet.latest.shares)
    assert before["b"].encoding == "int8", "how tensors travel follows the link at any time"
    assert [(s.microbatch, s.local_steps) for s in before.values()] == [
        (s.microbatch, s.local_steps) for s in first.values()
    ]
    fleet.nodes["d"] = (0.02, "good")
    del fleet.nodes["a"]
    (message,) = fleet.enrol()
    assert set(message.shares) == {"b", "c", "d"}
    assert {name: message.shares[name] for name in "bc"} == {name: before[name] for name in "bc"}
    assert "a is out" in message.reason
    told = fleet.tune(2, adapt=True)
    assert len(told) == 1, "with leave, it makes up for it at once"


def test_a_factor_of_one_freezes_work_but_not_how_tensors_travel() -> None:
    fleet = Fleet(UNEQUAL, batch="latency").begin()
    fleet.train(3)
    before = fleet.share("b")
    fleet.tune(1, max_factor=1.0, phase="convergence")
    fleet.grade("b", "poor")
    fleet.wait(1.0)
    after = fleet.share("b")
    assert (after.microbatch, after.local_steps) == (before.microbatch, before.local_steps)
    assert after.encoding == "int8"


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_changes_at_once_keep_to_the_factor(factor: float) -> None:
    fleet = Fleet({"a": (0.005, "excellent"), "b": (0.005, "excellent"), "c": (0.1, "poor")}, local_steps=32)
    fleet.begin()
    fleet.tune(1, max_factor=factor)
    fleet.train(10)
    for (_, old), (_, new) in zip(fleet.said, fleet.said[1:], strict=False):
        for name in new.shares:
            for field in ("microbatch", "local_steps"):
                was, now = getattr(old.shares[name], field), getattr(new.shares[name], field)
                assert max(was, now) <= max(factor * min(was, now), min(was, now) + 1)


def test_a_policy_of_off_in_the_request_holds_until_the_optimizer_speaks() -> None:
    fleet = Fleet(UNEQUAL, adaptation="off").begin()
    fleet.train(4)
    assert len(fleet.said) == 1


def test_a_rollback_restores_the_shares_and_holds_for_a_while() -> None:
    fleet = Fleet(UNEQUAL, batch="latency").begin()
    fleet.train(4)
    good = fleet.latest
    fleet.grade("b", "poor")
    fleet.wait(1.0)
    fleet.train(2)
    assert fleet.latest.shares != good.shares
    (message,) = fleet.tune(1, rollback_to=good.version, reason="loss rose after it")
    assert message.shares == good.shares
    assert f"back to assignment {good.version}" in message.reason
    assert "loss rose after it" in message.reason
    work = [(share.microbatch, share.local_steps) for share in message.shares.values()]
    fleet.train(3)
    assert [(share.microbatch, share.local_steps) for share in fleet.latest.shares.values()] == work


def test_a_rollback_to_what_is_no_longer_kept_is_refused_with_the_reason() -> None:
    fleet = Fleet(UNEQUAL).begin()
    fleet.train(3)
    before = fleet.latest
    (message,) = fleet.tune(1, rollback_to=900)
    assert message.shares == before.shares
    assert message.version == before.version + 1
    assert "can't go back to assignment 900: only 1 to" in message.reason


def test_old_and_repeated_messages_change_nothing() -> None:
    fleet = Fleet(UNEQUAL).begin()
    fleet.train(3)
    fleet.tune(5)
    before = msgspec.msgpack.encode(fleet.core.state)
    old = Roster(job="j", version=1, nodes=("a",), reducers=("a",), quorum=1, reason="long ago")
    assert fleet.tell(old) == []
    assert fleet.tune(4, rollback_to=1) == []
    assert fleet.state(1) == []
    assert fleet.close() == []
    assert fleet.tell(fleet.said[0][1]) == []
    fleet.link_version["a"] = 0
    assert fleet.grade("a", "excellent") == []
    assert fleet.tell(NodeProfile(node="a", version=1, host="", site="", cpus=1, memory_bytes=1, slowdown=9.0)) == []
    assert msgspec.msgpack.encode(fleet.core.state) == before


def test_a_reducers_own_contribution_says_nothing_of_its_link() -> None:
    fleet = Fleet(EQUAL).begin()
    fleet.tell(ContributionReceived(job="j", node="a", contributor="a", round=1, size=4_000_000, seconds=0.001))
    assert fleet.core.state.jobs["j"].nodes["a"].up == {}


def test_the_models_size_is_inferred_where_nobody_says_it() -> None:
    fleet = Fleet(EQUAL, parameters=0).begin()
    fleet.tell(ContributionReceived(job="j", node="a", contributor="b", round=1, size=4_000_000, seconds=0.1))
    assert fleet.core.state.jobs["j"].parameters == 1_000_000


def test_a_microbatch_that_did_not_fit_is_halved_for_good() -> None:
    fleet = Fleet(EQUAL, batch="throughput").begin()
    fleet.train(2)
    size = fleet.share("b").microbatch
    failed = WorkFailed(
        node="b", job="j", attempt=1, kind="out_of_memory", code=1, last_lines=(), retry=True, reason="no memory"
    )
    (message,) = fleet.tell(failed)
    assert message.shares["b"].microbatch == size // 2
    assert "didn't fit its memory" in message.reason
    fleet.train(20)
    assert fleet.share("b").microbatch <= size // 2


def test_an_offline_link_keeps_its_last_grade() -> None:
    fleet = Fleet(EQUAL | {"d": (0.02, "poor")}).begin()
    fleet.train(3)
    before = fleet.share("d")
    fleet.link_version["d"] += 1
    fleet.grade("d", "offline")
    fleet.wait(1.0)
    assert fleet.share("d") == before


def test_a_lost_nodes_link_is_forgotten_but_not_its_speed() -> None:
    fleet = Fleet(UNEQUAL).begin()
    fleet.train(3)
    known = fleet.core.state.jobs["j"].nodes["c"]
    assert known.up
    fleet.tell(NodeLost(node="c", silent_seconds=5.0, reason="silent"))
    assert known.up == {}
    assert known.steps


def test_a_node_that_describes_itself_differently_is_measured_anew() -> None:
    fleet = Fleet(UNEQUAL).begin()
    fleet.train(3)
    same = NodeProfile(node="c", version=2, host="c", site="c", cpus=2, memory_bytes=1)
    fleet.tell(same)
    assert fleet.core.state.jobs["j"].nodes["c"].steps
    fleet.tell(msgspec.structs.replace(same, version=3, slowdown=2.0))
    assert fleet.core.state.jobs["j"].nodes["c"].steps == {}


def test_an_ended_job_is_forgotten_and_stays_so() -> None:
    fleet = Fleet(EQUAL).begin()
    fleet.train(2)
    fleet.state(9, JobPhase.COMPLETED)
    assert fleet.core.state.jobs == {}
    assert fleet.enrol() == []
    assert fleet.state(10) == []
    assert fleet.tune(50) == []
    assert fleet.tell(Reconsider(job="j")) == []
    assert fleet.core.state.jobs == {}


def test_a_controller_without_memory_listens_then_adopts_what_is_in_force() -> None:
    first = Fleet(UNEQUAL, batch="latency", local_steps=12).begin()
    first.train(4)
    second = Fleet(UNEQUAL, batch="latency", local_steps=12)
    second.tell(Woken(incarnation=2, resumed=False, at=0.0))
    second.state(3)
    assert second.enrol() == [], "it listens first"
    assert second.tell(first.latest) == []
    assert Settled() in second.timers
    for name in second.nodes:
        second.grade(name, "excellent")
    assert second.wait(2.0) == [], "what is in force fits the roster"
    second.said.append(("", first.latest))
    del second.nodes["b"]
    (message,) = second.enrol()
    assert message.version == first.latest.version + 1
    assert message.shares["a"] == first.latest.shares["a"]


def test_a_controller_without_memory_speaks_where_nothing_is_in_force() -> None:
    fleet = Fleet(EQUAL)
    fleet.tell(Woken(incarnation=1, resumed=False, at=0.0))
    fleet.state(1)
    fleet.enrol()
    assert fleet.said == []
    (message,) = fleet.wait(2.0)
    assert message.version == 1


def test_a_controller_with_memory_goes_on() -> None:
    fleet = Fleet(UNEQUAL).begin()
    fleet.grade("a", "poor")
    memory = msgspec.msgpack.decode(msgspec.msgpack.encode(fleet.core.state), type=BatchControllerState)
    fleet.core = BatchController(BatchControllerSettings(), random.Random(0), memory)
    fleet.timers = {}
    fleet.tell(Woken(incarnation=2, resumed=True, at=0.0))
    assert [message.shares["a"].encoding for message in fleet.wait(1.0)] == ["int8"]


def test_jobs_do_not_disturb_each_other() -> None:
    fleet = Fleet(UNEQUAL).begin()
    fleet.tell(
        JobState(
            job="other",
            version=1,
            state=JobPhase.RUNNING,
            reason="",
            round=0,
            rounds=5,
            request=fleet.request,
            submitted_at=0.0,
        )
    )
    fleet.tell(Roster(job="other", version=1, nodes=("a", "z"), reducers=("a",), quorum=1, reason=""))
    before = fleet.core.state.jobs["other"].current
    fleet.train(5)
    assert fleet.core.state.jobs["other"].current is before
    assert {message.job for _, message in fleet.said} == {"j", "other"}


def test_bounded_jobs() -> None:
    core = BatchController(BatchControllerSettings(jobs_kept=3), random.Random(0))
    for i in range(10):
        core.handle(Roster(job=f"j{i}", version=1, nodes=("a",), reducers=(), quorum=1, reason=""), 0.0)
        core.check()
    assert list(core.state.jobs) == ["j7", "j8", "j9"]

"""A node's agent gives way: to its owner's programs, to heat and power, and to a person's word."""

import random
from typing import Any

import pytest

from agents.base import Effect, Publish, StartWork, StopWork
from agents.inputs import Woken, WorkExited
from agents.node import MachineSampled, NodeAgent, NodeAgentSettings, SampleMachine
from agents.node.core import HeartbeatDue, RestartDue
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.nodes import Accelerator, NodeProfile, NodeYielding, PauseNode, WorkEnded, WorkFailed
from schemas.training import Exclusion, Roster
from schemas.wire import Message

NOW = 1_000.0
KEY = "job/j"


class Owned:
    """A node whose machine is looked at once a second, with a job on it."""

    def __init__(self, **settings: Any) -> None:
        self.settings = NodeAgentSettings(node="me", **({"yield_to_owner": True} | settings))
        self.core = NodeAgent(self.settings, random.Random(1))
        self.now = NOW
        self.effects: list[Effect] = []
        self.tell(Woken(incarnation=1, resumed=False, at=NOW))
        request = JobRequest(kind="train", workload="m:w", id="j")
        self.tell(
            JobState(
                job="j", version=1, state=JobPhase.RUNNING, reason="", round=0, rounds=9, request=request, submitted_at=1.0
            )
        )
        self.roster("me", "other")
        assert self.starts == 1

    def tell(self, event: Any) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        self.core.check()
        self.effects += effects
        return effects

    def roster(self, *nodes: str, why: str = "the job takes no more") -> None:
        version = self.core.state.jobs["j"].roster_version + 1 if "j" in self.core.state.jobs else 1
        out = () if "me" in nodes else (Exclusion(node="me", reason=why),)
        self.tell(Roster(job="j", version=version, nodes=nodes, reducers=nodes[:1], quorum=1, excluded=out, reason="r"))

    def seconds(self, count: int, **sample: Any) -> None:
        """So many seconds, each with a look at the machine."""
        for _ in range(count):
            self.now += 1
            self.tell(MachineSampled(**({"cpu_percent": 0.0, "memory_used_bytes": 0} | sample)))

    def cpu(self, *percents: float) -> None:
        """What the owner's programs use, second by second."""
        for percent in percents:
            self.seconds(1, owner_cpu_percent=percent)

    def end_process(self, code: int = 0) -> list[Effect]:
        return self.tell(WorkExited(key=KEY, code=code))

    def said(self, kind: type[Message]) -> list[Any]:
        return [e.message for e in self.effects if isinstance(e, Publish) and isinstance(e.message, kind)]

    @property
    def words(self) -> list[bool]:
        return [word.yielding for word in self.said(NodeYielding)]

    @property
    def starts(self) -> int:
        return sum(isinstance(e, StartWork) and e.key == KEY for e in self.effects)

    @property
    def stops(self) -> list[StopWork]:
        return [e for e in self.effects if isinstance(e, StopWork)]


def test_it_yields_when_the_owner_needs_the_machine_and_goes_on_afterwards() -> None:
    node = Owned()
    node.cpu(80, 80, 80, 80, 80)
    assert node.words == [], "four seconds are no need yet"
    node.cpu(80)
    (word,) = node.said(NodeYielding)
    assert word.yielding
    assert word.reason == "yields: its owner's programs use 80 % of its CPU (limit 50 %)"
    assert word.version == node.said(NodeProfile)[0].version + 1
    (stop,) = node.stops
    assert (stop.key, stop.reason) == (KEY, f"the node {word.reason}"), "at once, without waiting for a roster"
    node.roster("other")
    node.end_process()
    assert len(node.said(WorkEnded)) == 1
    node.cpu(*[10] * 20)
    assert node.words == [True], "the wait is not over"
    node.cpu(10)
    assert node.words == [True, False]
    assert node.starts == 1, "it is for the roster to take it in again"
    node.roster("me", "other")
    assert node.starts == 2
    assert node.said(WorkFailed) == []


def test_load_that_comes_and_goes_is_no_need() -> None:
    node = Owned()
    node.cpu(*[90, 90, 90, 30] * 30)
    assert node.words == []


def test_between_the_limits_nothing_changes() -> None:
    node = Owned()
    node.cpu(*[49] * 60)
    assert node.words == []
    node.cpu(*[60] * 6, *[40] * 200)
    assert node.words == [True]


def test_each_pause_shortly_after_another_is_longer_up_to_a_limit() -> None:
    node = Owned(resume_longest_seconds=60.0)
    pauses = []
    for _ in range(5):
        node.cpu(*[60] * 6)
        began = node.now
        while node.core.state.need.causes:
            node.cpu(0)
        pauses.append(node.now - began)
    assert pauses == [21, 41, 61, 61, 61]
    node.cpu(*[0] * 120, *[60] * 6)
    began = node.now
    node.cpu(*[0] * 21)
    assert node.words[-1] is False, "after a calm time the wait is short again"


def test_a_node_that_was_not_asked_to_gives_way_to_no_program() -> None:
    node = Owned(yield_to_owner=False)
    node.seconds(30, owner_cpu_percent=100.0, owner_gpu_percent=100.0)
    assert node.words == []
    looks = [e.work for _ in range(4) for e in node.tell(HeartbeatDue()) if isinstance(e, StartWork)]
    assert looks == [SampleMachine()] * 2


def test_a_node_that_yields_looks_at_every_beat() -> None:
    node = Owned()
    looks = [e.work for _ in range(4) for e in node.tell(HeartbeatDue()) if isinstance(e, StartWork)]
    assert looks == [SampleMachine(owner=True)] * 4


HOT = Accelerator(name="GPU", memory_bytes=1, temperature_c=86.0, power_w=300.0)
WARM = Accelerator(name="GPU", memory_bytes=1, temperature_c=81.0, power_w=300.0)
FAIR = Accelerator(name="GPU", memory_bytes=1, temperature_c=60.0, power_w=220.0)
COOL = Accelerator(name="GPU", memory_bytes=1, temperature_c=79.0, power_w=100.0)
SILENT = Accelerator(name="GPU", memory_bytes=1)


@pytest.mark.parametrize(
    ("settings", "high", "between", "low", "says"),
    [
        (
            {},
            {"temperature_c": 86.0},
            {"temperature_c": 81.0},
            {"temperature_c": 79.0},
            "86 degrees Celsius hot",
        ),
        ({}, {"accelerators": (COOL, HOT)}, {"accelerators": (WARM,)}, {"accelerators": (COOL,)}, "86 degrees"),
        ({}, {"owner_gpu_percent": 90.0}, {"owner_gpu_percent": 30.0}, {"owner_gpu_percent": 9.0}, "90 % of its GPU"),
        (
            {"power_limit_w": 250.0},
            {"accelerators": (WARM,)},
            {"accelerators": (WARM,)},
            {"accelerators": (COOL,)},
            "300 W",
        ),
    ],
)
def test_heat_power_and_the_gpu_count_too(settings: dict[str, Any], high: Any, between: Any, low: Any, says: str) -> None:
    node = Owned(**settings)
    node.seconds(6, **high)
    assert node.words == [True]
    assert says in node.said(NodeYielding)[0].reason
    node.seconds(100, **between)
    assert node.words == [True]
    node.seconds(21, **low)
    assert node.words == [True, False]


def test_what_has_no_sensor_or_no_limit_is_no_reason() -> None:
    node = Owned(max_temperature_c=0.0)
    node.seconds(30, temperature_c=120.0, accelerators=(HOT,))
    node.core.settings = NodeAgentSettings(node="me")
    node.seconds(30, accelerators=(SILENT,))
    assert node.words == []


def test_a_sensor_that_falls_silent_doesnt_keep_a_node_out() -> None:
    node = Owned()
    node.seconds(6, temperature_c=90.0)
    node.seconds(21)
    assert node.words == [True, False]


def test_two_reasons_must_both_pass() -> None:
    node = Owned()
    node.seconds(6, owner_cpu_percent=90.0, temperature_c=70.0)
    node.seconds(6, owner_cpu_percent=90.0, temperature_c=90.0)
    assert [word.yielding for word in node.said(NodeYielding)] == [True, True], "the reason has changed"
    assert "hot" in node.said(NodeYielding)[-1].reason
    assert len(node.stops) == 1
    node.seconds(21, owner_cpu_percent=0.0, temperature_c=90.0)
    assert node.words == [True, True, True]
    assert "CPU" not in node.said(NodeYielding)[-1].reason
    node.seconds(21, owner_cpu_percent=0.0, temperature_c=70.0)
    assert node.words[-1] is False


def test_a_person_pauses_and_resumes_it() -> None:
    node = Owned(yield_to_owner=False)
    (word,) = [
        e.message
        for e in node.tell(PauseNode(node="me", pause=True, reason="a game", id="cli:1:1"))
        if isinstance(e, Publish)
    ]
    assert (word.yielding, word.reason) == (True, "yields: paused by hand: a game")
    assert [stop.cause for stop in node.stops] == ["cli:1:1"]
    node.tell(PauseNode(node="me", pause=True, reason="a game"))
    assert node.words == [True], "the same again is no news"
    node.end_process()
    node.tell(PauseNode(node="me", pause=False))
    assert node.words == [True, False]
    assert node.starts == 2, "the roster has not dropped it yet: it starts at once"


def test_a_pause_by_hand_outlives_the_node() -> None:
    node = Owned()
    node.tell(PauseNode(node="me", pause=True, reason="a game"))
    node.end_process()
    again = NodeAgent(node.settings, random.Random(1), node.core.state)
    effects = again.handle(Woken(incarnation=2, resumed=True, at=NOW + 100), NOW + 100)
    profile, word = (
        next(e.message for e in effects if isinstance(e, Publish) and isinstance(e.message, kind))
        for kind in (NodeProfile, NodeYielding)
    )
    assert word.yielding
    assert word.version > profile.version
    assert not any(isinstance(e, StartWork) and e.key == KEY for e in effects)


def test_a_process_that_fails_while_its_node_yields_isnt_started_again() -> None:
    node = Owned()
    node.end_process(-9)
    assert node.said(WorkFailed)[0].retry
    node.tell(PauseNode(node="me", pause=True))
    node.tell(RestartDue(job="j"))
    assert node.starts == 1
    node.tell(PauseNode(node="me", pause=False))
    assert node.starts == 2


def test_the_last_node_of_a_job_keeps_its_process_which_idles_and_holds_what_was_learnt() -> None:
    node = Owned(yield_to_owner=False)
    node.roster("me")
    node.tell(PauseNode(node="me", pause=True))
    node.roster()
    assert node.words == [True]
    assert node.stops == []
    node.roster("newcomer")
    assert node.stops == [], "the newcomer needs somebody to catch up from"
    node.tell(PauseNode(node="me", pause=False))
    node.roster("newcomer", why="yields: paused by hand: a user's choice")
    assert node.stops == [], "the selector had not heard yet that it goes on"
    node.roster("newcomer", "me")
    assert (node.starts, node.stops) == (1, []), "it goes on as if nothing had been"
    node.roster("newcomer")
    assert len(node.stops) == 1


def test_it_idles_no_longer_than_its_job_lasts() -> None:
    node = Owned(yield_to_owner=False)
    node.roster("me")
    node.tell(PauseNode(node="me", pause=True))
    node.roster()
    request = JobRequest(kind="train", workload="m:w", id="j")
    over = JobState(
        job="j", version=2, state=JobPhase.CANCELLED, reason="", round=0, rounds=9, request=request, submitted_at=1.0
    )
    node.tell(over)
    assert len(node.stops) == 1

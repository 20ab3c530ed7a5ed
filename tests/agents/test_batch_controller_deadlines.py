"""Deadlines that are learned from how long each node takes: the arithmetic, and the controller with a clock that runs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.batch_controller import BatchControllerSettings, deadlines
from agents.batch_controller.state import Arrival, Known
from schemas.training import ContributionReceived, RoundOpened, StepTimed, TransferTimed
from tests.agents.test_batch_controller import BYTES, Fleet

S = BatchControllerSettings()
STEADY = (1.0, 1.1, 1.0, 1.05, 0.95, 1.0, 1.1, 1.0, 1.05, 1.0)


def came(*took: float, planned: float = 1.0) -> Known:
    return Known(arrivals=[Arrival(round=n + 1, planned=planned, took=seconds) for n, seconds in enumerate(took)])


def test_a_node_without_a_history_is_given_a_factor_and_a_floor() -> None:
    assert deadlines.need(Known(), 4.0, S) == pytest.approx(9.0)
    assert deadlines.need(came(0.1, 0.1, 0.1), 4.0, S) == pytest.approx(9.0), "three are chance"


def test_a_steady_node_needs_hardly_more_than_it_took() -> None:
    assert 1.1 * 1.2 <= deadlines.need(came(*STEADY), 1.0, S) <= 1.8
    short = came(*(seconds / 20 for seconds in STEADY), planned=0.05)
    assert deadlines.need(short, 0.05, S) < 0.4, "no floor of seconds keeps short rounds long"


def test_a_node_that_varies_is_given_its_own_spread() -> None:
    moody = came(1.0, 3.0, 1.0, 1.2, 2.8, 1.0, 0.9, 2.9, 1.1, 1.0)
    assert deadlines.need(moody, 1.0, S) > 2.9 + 1.8


def test_two_stalls_in_twenty_rounds_are_not_planned_for() -> None:
    stalled = came(*STEADY, *STEADY[:8], 60.0, 45.0)
    assert deadlines.need(stalled, 1.0, S) < 2.0
    assert deadlines.need(came(*STEADY, *STEADY[:7], 60.0, 45.0, 50.0), 1.0, S) > 45.0


def test_another_share_needs_another_time() -> None:
    known = came(*STEADY)
    assert 4 * 1.1 < deadlines.need(known, 4.0, S) < 4 * 1.8, "more work takes longer"
    waits = came(*STEADY, planned=0.1)
    assert deadlines.need(waits, 0.05, S) > 1.0, "what didn't come of the work stays"
    assert deadlines.need(waits, 1.1, S) < 4.0, "and doesn't grow with it"


@given(
    takes=st.lists(st.floats(0.001, 100), min_size=1, max_size=30),
    planned=st.floats(0.01, 50),
    factor=st.floats(1, 10),
)
def test_more_work_never_needs_less_time(takes: list[float], planned: float, factor: float) -> None:
    known = came(*takes)
    assert deadlines.need(known, planned * factor, S) >= deadlines.need(known, planned, S) > 0


def test_nobody_is_waited_for_much_longer_than_a_quorum() -> None:
    fast, slow = came(*STEADY), came(*(10 * seconds for seconds in STEADY))
    enough = deadlines.need(fast, 1.0, S)
    known = {"a": fast, "b": fast, "c": slow}
    planned = dict.fromkeys(known, 1.0)
    assert deadlines.deadline(planned, known, 2, S) == pytest.approx(2 * enough)
    assert deadlines.deadline(planned, known, 3, S) == pytest.approx(deadlines.need(slow, 1.0, S)), "with it is the quorum"


class TimedFleet(Fleet):
    """A fleet whose rounds take their time: offers arrive when they are due, `late` seconds more for some."""

    def run(self, rounds: int, late: dict[str, float] | None = None) -> None:
        for _ in range(rounds):
            self.round += 1
            opened = self.now
            self.open()
            deadline = self.latest.deadline_seconds
            due = sorted((self.time(name) + (late or {}).get(name, 0.0), name) for name in self.nodes)
            missing = tuple(name for seconds, name in due if seconds > deadline)
            closed = False
            for seconds, name in due:
                if seconds > deadline and not closed:
                    closed = True
                    self.wait(max(0.0, opened + deadline - self.now))
                    self.close(missing)
                self.wait(max(0.0, opened + seconds - self.now))
                self.finish(name)
            if not closed:
                self.close()
            self.wait(0.4)

    def open(self, term: int = 1, reducer: str = "a") -> None:
        self.tell(
            RoundOpened(
                job="j",
                node=reducer,
                round=self.round,
                term=term,
                deadline_seconds=self.latest.deadline_seconds,
                expected=tuple(self.nodes),
                reason="",
            )
        )

    def finish(self, name: str) -> None:
        share = self.share(name)
        seconds, samples = share.local_steps * self.step(name), share.local_steps * share.microbatch
        timed: dict[str, Any] = {"steps": share.local_steps, "samples": samples, "seconds": seconds}
        self.tell(StepTimed(job="j", node=name, round=self.round, microbatch=share.microbatch, loss=1.0, **timed))
        up, down = self.transfers(name)
        size = int(self.parameters * BYTES[self.latest.average_encoding])
        self.tell(TransferTimed(job="j", node=name, direction="down", bytes=size, seconds=down, streams=share.streams))
        size = int(self.parameters * BYTES[share.encoding])
        self.tell(
            ContributionReceived(job="j", node="elsewhere", contributor=name, round=self.round, size=size, seconds=up)
        )


def fleet(**request: Any) -> TimedFleet:
    made = TimedFleet(
        {"a": (0.02, "excellent"), "b": (0.02, "excellent"), "c": (0.02, "excellent")},
        **{"batch": "latency", "local_steps": 5} | request,
    )
    made.begin()
    return made


def test_deadlines_come_down_to_what_rounds_take() -> None:
    fast = fleet()
    fast.run(8)
    takes = max(fast.time(name) for name in "abc")
    assert takes < 1.0
    assert takes < fast.latest.deadline_seconds < 1.5 * takes + 0.5
    assert "deadline" in fast.latest.reason


def test_a_node_that_becomes_late_is_learned_from_whether_it_comes_or_not() -> None:
    moved = fleet()
    moved.run(10)
    before = moved.latest.deadline_seconds
    moved.run(6, late={"c": 0.9})
    assert moved.core.state.jobs["j"].nodes["c"].arrivals[-1].took > before
    assert moved.latest.deadline_seconds > before
    assert moved.latest.deadline_seconds <= 2 * deadlines.need(moved.core.state.jobs["j"].nodes["a"], 1.0, S)


def test_a_round_that_another_reducer_opened_again_teaches_nothing() -> None:
    split = fleet()
    split.run(5)
    known = split.core.state.jobs["j"].nodes["b"]
    had = list(known.arrivals)
    split.round += 1
    split.open()
    split.wait(30.0)
    split.open(term=2, reducer="b")
    for name in "abc":
        split.finish(name)
    assert known.arrivals == had


def test_a_node_that_was_lost_begins_anew_and_another_link_keeps_little() -> None:
    changed = fleet()
    changed.run(10)
    known = changed.core.state.jobs["j"].nodes["b"]
    assert len(known.arrivals) > deadlines.LEAST_ARRIVALS
    changed.grade("b", "fair")
    assert len(known.arrivals) == deadlines.LEAST_ARRIVALS


def test_a_deadline_that_was_asked_for_stays() -> None:
    asked = fleet(deadline_seconds=7.0)
    asked.run(8)
    assert asked.latest.deadline_seconds == 7.0

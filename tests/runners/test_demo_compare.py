"""The demo's comparison: what counts as time, and that the verdict is told whichever way it goes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runners.demo import compare
from runners.demo.compare import Arrival, Comparison
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import RoundOpened, Validated
from schemas.wire import Message


class Told:
    """A client's two ways to hear events, with the events of the test."""

    def __init__(self, *events: Message) -> None:
        self._events = events

    async def events(self, pattern: str) -> AsyncIterator[Message]:
        for event in self._events:
            yield event

    async def history(self, pattern: str) -> AsyncIterator[Message]:
        async for event in self.events(pattern):
            yield event


def opened(at: float, round_: int = 1) -> RoundOpened:
    return RoundOpened(
        id=f"r:1:{round_}",
        at=at,
        job="j",
        node="a",
        round=round_,
        term=0,
        deadline_seconds=9.0,
        expected=(),
        digest="",
        reason="",
    )


def validated(at: float, round_: int, loss: float) -> Validated:
    return Validated(id=f"t:1:{round_}", at=at, job="j", node="a", round=round_, loss=loss, seconds=0.1)


def state(phase: JobPhase) -> JobState:
    request = JobRequest(kind="train", workload="m:w")
    return JobState(job="j", version=1, state=phase, reason="", round=0, rounds=9, request=request, submitted_at=0.0)


async def test_our_time_is_from_the_first_opening_to_the_first_round_as_good_as_the_last() -> None:
    told: Any = Told(
        opened(100.0), validated(105.0, 1, 3.0), opened(105.0, 2), validated(110.0, 2, 2.4), validated(115.0, 3, 2.5)
    )
    ours, target = await compare._history(told, "j")
    assert target == 2.5
    assert (ours.seconds, ours.rounds, ours.loss) == (10.0, 2, 2.4)


async def test_a_way_that_gets_there_is_timed_and_one_that_ends_before_is_not() -> None:
    there: Any = Told(opened(1.0), validated(2.0, 1, 2.0))
    assert (await compare._arrive(there, "j", "fixed", 2.1, 60.0)).seconds is not None
    failed: Any = Told(opened(1.0), validated(2.0, 1, 3.0), state(JobPhase.FAILED))
    assert (await compare._arrive(failed, "j", "fixed", 2.1, 60.0)).seconds is None


async def test_a_way_that_never_begins_ends_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "STARTING", 0.01)

    class Silent(Told):
        async def events(self, pattern: str) -> AsyncIterator[Message]:
            yield state(JobPhase.RUNNING)
            await asyncio.Event().wait()

    silent: Any = Silent()
    assert (await compare._arrive(silent, "j", "fixed", 2.1, 60.0)).seconds is None


def test_the_verdict_is_told_also_where_shoal_loses() -> None:
    def arrival(way: str, seconds: float | None) -> Arrival:
        return Arrival(way=way, seconds=seconds, loss=2.5, rounds=9)

    all_three = (arrival("Shoal", 100.0), arrival("fixed", 250.0), arrival("fastest alone", 80.0))
    verdict = Comparison(target=2.5, arrivals=all_three).verdict
    assert verdict == "Shoal was 2.50x faster than fixed; Shoal was 1.25x SLOWER than fastest alone"
    never = Comparison(target=2.5, arrivals=(arrival("Shoal", 100.0), arrival("fixed", None))).verdict
    assert never == "fixed did not get there (held-out loss 2.500)"

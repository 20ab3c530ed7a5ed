"""Job processes that compute for a part of the time: rests between steps, rounds that end when they would have."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.node import PaceJobs
from agents.trainer import works
from runners.jobs import trainer_works
from runners.jobs.local_steps import StepResult
from runners.jobs.pace import Pace, steps_left, tell
from runners.jobs.spec import JobSpec
from runners.jobs.trainer_works import TrainerWorks
from runners.node_work import NodeWorks, NodeWorksConfig
from schemas.jobs import JobRequest

STEP = 0.25  # virtual seconds that a step computes


class Desk:
    """A trainer's works whose steps take virtual time; `on_step` is called with the number of each."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.computed = 0.0
        self.file = file
        self.on_step: Callable[[int], None] = lambda number: None
        self.posted: list[Any] = []
        self.done = asyncio.Event()
        spec = JobSpec(
            job="j",
            node="a",
            server="",
            request=JobRequest(kind="train", workload="m:w"),
            pace_file=str(file),
        )
        session = SimpleNamespace(spec=spec, begin_steps=lambda round_: "base", step=self._step, digest="d")
        monkeypatch.setattr(trainer_works, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(trainer_works, "asyncio", SimpleNamespace(sleep=self._sleep))
        self.works = TrainerWorks(*cast(Any, (session, None, self, SimpleNamespace(), self, self._failed)))
        self.steps = 0

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    async def set_streams(self, count: int) -> None:
        pass

    async def _sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)

    def _failed(self, error: BaseException) -> None:
        raise error

    def _step(self, microbatch: int) -> StepResult:
        self.now += STEP
        self.computed += STEP
        self.steps += 1
        self.on_step(self.steps)
        return StepResult(samples=microbatch, loss=1.0, seconds=STEP)

    async def round(self, steps: int) -> works.StepsDone:
        """A local round, as a job with `sync = "overlap"` asks for it: without the difference."""

        def post(result: Any) -> None:
            self.posted.append(result)
            if isinstance(result, works.StepsDone):
                self.done.set()

        self.works.start(
            "round", works.LocalRound(round=1, microbatch=4, steps=steps, encoding="int8", streams=1, going_on=True), post
        )
        await self.done.wait()
        return cast(works.StepsDone, self.posted[-1])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path / "nodes" / "a.pace", monkeypatch)


async def test_at_full_speed_there_are_no_rests(desk: Desk) -> None:
    done = await desk.round(8)
    assert (done.steps, done.samples, done.seconds) == (8, 32, 8 * STEP)


async def test_with_a_share_of_a_quarter_steps_take_four_times_as_long(desk: Desk) -> None:
    tell(desk.file, 0.25)
    done = await desk.round(8)
    assert (done.steps, done.seconds) == (8, pytest.approx(32 * STEP))
    assert desk.computed == 8 * STEP
    assert any(isinstance(result, works.StepTaken) for result in desk.posted), "a rest is no hang"


async def test_a_round_under_way_is_cut_to_end_when_it_would_have(desk: Desk) -> None:
    desk.on_step = lambda number: tell(desk.file, 0.25) if number == 4 else None
    done = await desk.round(20)
    assert done.steps == done.samples / 4 == 8, "a quarter of what was left"
    assert done.seconds == pytest.approx(20 * STEP, abs=4 * STEP)


async def test_a_rest_ends_when_the_owner_no_longer_needs_the_machine(desk: Desk) -> None:
    tell(desk.file, 0.001)
    slept = desk._sleep

    async def sleep(seconds: float) -> None:
        await slept(seconds)
        tell(desk.file, 1.0)

    trainer_works.asyncio.sleep = sleep  # type: ignore[assignment, attr-defined]
    done = await desk.round(3)
    assert done.seconds <= 3 * STEP + 2 * trainer_works.SIGN_OF_LIFE


@given(planned=st.integers(1, 500), data=st.data(), before=st.floats(0.01, 1.0), now=st.floats(0.01, 1.0))
def test_steps_left_are_never_more_than_planned_nor_none(
    planned: int, data: st.DataObject, before: float, now: float
) -> None:
    done = data.draw(st.integers(1, planned))
    found = steps_left(planned, done, before, now)
    assert done <= found <= planned
    assert (found > done) == (planned > done)


@pytest.mark.parametrize("said", ["", "nonsense", "0", "-1", "2", "nan"])
def test_what_is_no_share_slows_nothing(tmp_path: Path, said: str) -> None:
    file = tmp_path / "a.pace"
    file.write_text(said)
    assert Pace(file).share() == 1.0
    assert Pace(None).share() == 1.0


async def test_a_node_tells_its_processes_and_forgets_what_an_earlier_life_said(tmp_path: Path) -> None:
    config = NodeWorksConfig(node="a", server="", folder=tmp_path / "nodes", fork_argv=None)
    node = NodeWorks(config)
    request = JobRequest(kind="train", workload="m:w")
    file = node._spec("j", request, None).pace_file
    assert file is not None
    pace = Pace(Path(file))
    node.start("pace", PaceJobs(share=0.25), lambda result: None)
    assert pace.share() == 0.25
    node.start("pace", PaceJobs(share=1.0), lambda result: None)
    assert pace.share() == 1.0
    node.start("pace", PaceJobs(share=0.5), lambda result: None)
    await node.close()
    await NodeWorks(config).close()
    assert pace.share() == 1.0

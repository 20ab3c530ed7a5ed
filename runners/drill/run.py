"""Does one drill after the other on a running fleet, and says what came of each."""

import asyncio
import itertools
import statistics
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from bus.port import BusError, Interest
from runners.drill import accounts
from runners.drill.catalogue import Plan
from runners.drill.results import LossPoint, Result, judged
from runners.drill.scene import PATIENCE, CantDrill, Scene
from runners.drill.watching import Heard, NotHeard
from runners.view.words import said_by
from schemas.drills import DrillMark
from schemas.errors import ShoalError
from schemas.jobs import JobPhase, JobState, ModelStored
from schemas.training import Assignment, RoundApplied, RoundClosed

BETWEEN = 6  # rounds in peace before and after each fault: adaptation and enrolment settle, and the loss has a level
_CURVE = 40  # points of a loss curve that are kept
_WORDS = 8  # lines of what the fleet said that are kept
_DEADLINE = 30.0  # seconds, where nobody has said how long a round may take
_MOST_LOST = 5  # kinds of loss that are told
_HOURS = 86_400.0  # seconds: longer than any drill

T = TypeVar("T")


class JobEnded(ShoalError):
    """The job is over: nothing more can be seen by it. Attribute: `job`."""

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job} has ended")
        self.job = job


class Drills:
    """Runs plans on a scene.

    Args:
        say: gets a line when a drill begins.
    """

    def __init__(self, scene: Scene, say: Callable[[str], None]) -> None:
        self.scene = scene
        self._say = say

    async def meet(self) -> None:
        """Learn who takes part in the job while all is well. Raises `NotHeard` where no rounds are closed, `JobEnded`."""
        scene = self.scene
        closed = await self._while_it_runs(scene.watch.rounds(scene.job, BETWEEN, scene.clock(), PATIENCE))
        scene.nodes = tuple(sorted({part.node for heard in closed for part in heard.message.contributions}))

    async def run(self, plan: Plan, number: int, of: int) -> Result:
        """One drill, with peace before and after it. Whatever it breaks is put right however it ends.

        Raises:
            JobEnded: there is nothing left to drill.
        """
        blank = Result(name=plan.name, does=plan.does, goal=plan.goal)
        if plan.impossible:
            return _but(blank, skipped=plan.impossible)
        self._say(f"{number} of {of}  {plan.name}: {plan.does}")
        try:
            return judged(await self._while_it_runs(self._drill(plan, blank)))
        except CantDrill as error:
            return _but(blank, skipped=str(error))
        except BusError as error:
            self._ended()
            return _but(blank, missed=(str(error),), **self._seen())

    async def _drill(self, plan: Plan, blank: Result) -> Result:
        scene = self.scene
        before = await self._peace()
        deadline = self._deadline()
        stored, jobs, accepted = await self._stored(), await self._jobs(), len(scene.marks.accepted)
        refused = scene.marks.refused
        back, after, trouble = await self._fault(plan)
        await scene.marks.settled()
        found = _but(
            blank,
            does="; ".join(scene.details),
            usual=_usual(before),
            gap_limit=plan.gap_limit(deadline),
            back=None if back is None else back - scene.begun,
            back_limit=plan.lasts + plan.back_limit,
            accepted=len(scene.marks.accepted) - accepted,
            refused=scene.marks.refused - refused,
            stored_before=stored,
            stored_after=await self._stored(),
            loss_before=_level(before),
            loss_after=_level(after) if after else None,
            lost=tuple((await self._lost(jobs))[:_MOST_LOST]),
            missed=(trouble,) if trouble else (),
            **self._seen(),
        )
        end = after[0].at if after else scene.clock()
        closed = [heard for heard in self._closed(scene.begun) if heard.at <= end]
        times = [scene.begun, *(heard.at for heard in closed), end]
        return _but(
            found,
            gap=max(later - earlier for earlier, later in itertools.pairwise(times)),
            rounds=len(closed) - bool(after),
            loss_worst=max((heard.message.loss for heard in closed), default=None),
        )

    async def _peace(self) -> list[Heard[RoundClosed]]:
        """Some rounds with all nodes in them, of which the last are given. Raises `CantDrill` where there is no peace."""
        scene = self.scene
        scene.details.clear()
        scene.begun = scene.clock()
        try:
            rounds = await scene.watch.rounds(scene.job, BETWEEN, scene.begun, PATIENCE)
            await scene.contributes(*scene.nodes)
        except NotHeard as error:
            raise CantDrill(f"the fleet hasn't come to rest: {error}") from error
        return rounds

    async def _fault(self, plan: Plan) -> tuple[float | None, list[Heard[RoundClosed]], str]:
        """Do it; gives when all was back, the rounds after that, and what never came."""
        scene = self.scene
        back = None
        try:
            back = await plan.act(scene)
            over = max(back, scene.clock())  # what stood still may have been replaced before it went on
            return back, await scene.watch.rounds(scene.job, BETWEEN, over, PATIENCE), ""
        except NotHeard as error:
            return back, [], str(error)

    # What must not be lost.

    async def _lost(self, jobs: dict[str, JobPhase]) -> list[str]:
        """What was accepted and isn't there."""
        scene = self.scene
        # What was heard and acknowledged so far: more comes while the streams are read, which needn't be in there yet.
        heard, accepted = [heard.message for heard in self._closed(0.0)], frozenset(scene.marks.accepted)
        stored = [m async for m in scene.client.bus.history([Interest(RoundClosed, {"job": scene.job})])]
        found = accounts.marks_lost(accepted, await scene.marks.stored())
        found += accounts.rounds_lost([m for m in stored if isinstance(m, RoundClosed)], heard)
        return found + accounts.jobs_lost(jobs, await self._jobs())

    async def whole_job(self) -> tuple[list[str], list[str]]:
        """What is wrong with the job after all that, and what was looked at."""
        scene = self.scene
        mine = [Interest(RoundApplied, {"job": scene.job})]
        applied = [m async for m in scene.client.bus.history(mine) if isinstance(m, RoundApplied)]
        wrong = accounts.anchors_differ(applied)
        versions = len({event.version for event in applied})
        looked = [f"the nodes' digests of {versions} versions of the model"]
        model, words = await self._model()
        return wrong + model, looked + words

    async def _model(self) -> tuple[list[str], list[str]]:
        """Whether the newest checkpoint is what it was when it was stored."""
        mine = [Interest(ModelStored, {"job": self.scene.job})]
        stored = [m async for m in self.scene.client.bus.history(mine) if isinstance(m, ModelStored)]
        if not stored:
            return [], ["no checkpoint: the job has made none"]
        newest = stored[-1]
        try:
            data = await self.scene.client.bus.get_object(newest.name)
        except (KeyError, BusError) as error:
            return [f"the checkpoint of round {newest.round} can't be read: {error}"], []
        return [], [f"the checkpoint of round {newest.round}, {len(data) / 1e6:.1f} MB, read back with the right digest"]

    # What was seen.

    def _seen(self) -> dict[str, object]:
        """The curve around the fault, and what the fleet said since."""
        scene = self.scene
        begun = scene.begun
        around = [*self._closed(0.0, before=begun)[-BETWEEN:], *self._closed(begun)]
        curve = [LossPoint(round(h.at - begun, 2), h.message.round, round(h.message.loss, 5)) for h in around]
        return {"curve": tuple(_thinned(curve)), "said": tuple(self._said(begun))}

    def _said(self, begun: float) -> list[str]:
        lines: list[str] = []
        seen: set[str] = set()
        for heard in self.scene.watch.everything(begun):
            if isinstance(heard.message, DrillMark | RoundClosed | JobState):
                continue
            said = said_by(heard.message)
            if said is None or not (said.fault or "back" in said.text or "again" in said.text):
                continue
            text = f"{said.who}: {said.text}"
            if text not in seen:
                seen.add(text)
                lines.append(f"{heard.at - begun:.1f} s  {text}")
        more = len(lines) - _WORDS
        return [*lines[:_WORDS], f"and {more} more"] if more > 0 else lines

    def _closed(self, since: float, before: float = float("inf")) -> list[Heard[RoundClosed]]:
        """Rounds, each once, by when they were first heard."""
        found: dict[int, Heard[RoundClosed]] = {}
        for heard in self.scene.watch.of(RoundClosed, since, lambda m: m.job == self.scene.job):
            if heard.at < before:
                found.setdefault(heard.message.round, heard)
        return sorted(found.values(), key=lambda heard: heard.at)

    def _deadline(self) -> float:
        said = self.scene.watch.of(Assignment, 0.0, lambda m: m.job == self.scene.job)
        return said[-1].message.deadline_seconds if said else _DEADLINE

    async def _stored(self) -> int:
        return sum((await self.scene.streams.counts()).values())

    async def _jobs(self) -> dict[str, JobPhase]:
        return {job.job: job.state for job in await self.scene.client.jobs()}

    # The job's end.

    def _ended(self) -> None:
        states = self.scene.watch.of(JobState, 0.0, lambda m: m.job == self.scene.job)
        if states and states[-1].message.state.ended:
            raise JobEnded(self.scene.job)

    async def _while_it_runs(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something that waits for the job's rounds; a job that ends meanwhile closes none."""
        self._ended()
        doing = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(
            self.scene.watch.first(
                JobState, 0.0, lambda m: m.job == self.scene.job and m.state.ended, what="the job ends", within=_HOURS
            )
        )
        try:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
        if doing.cancelled():
            raise JobEnded(self.scene.job)
        return doing.result()


def _but(result: Result, **changes: object) -> Result:
    return msgspec.structs.replace(result, **changes)


def _usual(closed: Sequence[Heard[RoundClosed]]) -> float:
    times = sorted({heard.message.round: heard.at for heard in closed}.values())
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(times))


def _level(closed: Sequence[Heard[RoundClosed]]) -> float:
    """The loss there: the median of some rounds."""
    return statistics.median([heard.message.loss for heard in closed][:BETWEEN])


def _thinned(curve: Sequence[LossPoint]) -> list[LossPoint]:
    """At most so many points, evenly, the last among them."""
    if len(curve) <= _CURVE:
        return list(curve)
    step = (len(curve) - 1) / (_CURVE - 1)
    return [curve[round(number * step)] for number in range(_CURVE)]

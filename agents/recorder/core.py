"""The recorder: every record and every state becomes a row of history, every figure of a node a statistic."""

import random
from collections.abc import Iterator

import msgspec

from agents.base import Agent, CancelTimer, Effect, Effects, StartWork, Store, Timer, on
from agents.inputs import Woken, WorkExited
from agents.recorder.settings import RecorderSettings
from agents.recorder.state import RecorderState
from agents.recorder.statistics import Series
from agents.recorder.works import ReportBuilt, ReportWork
from schemas import catalogue, figures
from schemas.bus import BusDisturbed, MessageRejected
from schemas.decisions import InputFailed
from schemas.figures import Figures
from schemas.ids import JobId
from schemas.jobs import JobState, ReportReady
from schemas.network import LinkProbed
from schemas.nodes import NodeHeartbeat
from schemas.training import StepTimed, TransferTimed
from schemas.wire import Delivery, Message, encode, registered, subject_of

assert catalogue.MODULES  # all types are registered from here on: history is of every record, whoever adds one
_REPORTED_KEPT = 4096
_KEY = "report/"


class ReportDue(Timer, frozen=True, kw_only=True):
    """A job ended a while ago: its history is complete."""

    job: JobId


class Recorder(Agent[RecorderState]):
    """Keeps history."""

    name = "recorder"

    def __init__(self, settings: RecorderSettings, rng: random.Random, state: RecorderState | None = None) -> None:
        super().__init__(state or RecorderState(), rng)
        self.settings = settings

    # Events. Every RECORD and LAST_VALUE type without a handler of its own comes here (see the end of this file).

    def keep(self, event: Message, now: float) -> Effects:
        """A row of history. A message of a client, without an envelope, goes by its place in the stream."""
        yield Store(
            table="events",
            row={
                "id": event.id or self._cause,
                "at": event.at or now,
                "subject": subject_of(event),
                "type": type(event).__name__,
                "source": event.source,
                "job": getattr(event, "job", None),
                "node": getattr(event, "node", None),
                "round": getattr(event, "round", None),
                "cause": event.cause,
                "reason": getattr(event, "reason", None),
                "body": encode(event).decode(),
            },
        )

    @on(JobState)
    def follow_job(self, event: JobState, now: float) -> Effects:
        """History, and at a job's end a report."""
        yield from self.keep(event, now)
        known = event.job in self.state.reports or self.state.reported.get(event.job, -1.0) >= event.submitted_at
        if event.state.ended and not known:
            self.state.reports[event.job] = 0
            yield self.set_timer(ReportDue(job=event.job), now + self.settings.settle_seconds)

    @on(ReportReady)
    def remember_report(self, event: ReportReady, now: float) -> Effects:
        """A report that an earlier life wrote isn't written again."""
        yield from self.keep(event, now)
        if self._done(event.job, event.at):
            yield CancelTimer(timer=ReportDue(job=event.job))

    # Figures.

    @on(NodeHeartbeat)
    def count_heartbeat(self, event: NodeHeartbeat, now: float) -> Effects:
        """CPU, memory, accelerators."""
        yield from self._count(figures.of_heartbeat(event), event.at, now)

    @on(LinkProbed)
    def count_probe(self, event: LinkProbed, now: float) -> Effects:
        """Round trips."""
        yield from self._count(figures.of_probe(event), event.at, now)

    @on(StepTimed)
    def count_steps(self, event: StepTimed, now: float) -> Effects:
        """Speed of training."""
        yield from self._count(figures.of_steps(event), event.at, now, event.job)

    @on(TransferTimed)
    def count_transfer(self, event: TransferTimed, now: float) -> Effects:
        """Speed of the link."""
        yield from self._count(figures.of_transfer(event), event.at, now, event.job)

    def _count(self, found: Figures, at: float, now: float, job: JobId | None = None) -> Iterator[Effect]:
        if not found.values:
            return
        yield Store(table="metrics", row={"node": found.node, "at": at, "job": job, "values": found.values})
        node = self.state.series.pop(found.node, {})
        self.state.series[found.node] = node
        if len(self.state.series) > self.settings.max_nodes:
            del self.state.series[next(iter(self.state.series))]
        for name, value in found.values.items():
            series = node.get(name)
            if series is None:
                node[name] = Series.begin(value, now)
                continue
            closed = series.add(value, now, self.settings.window_seconds, self.settings.average_seconds)
            if closed is not None:
                row = {
                    "node": found.node,
                    "name": name,
                    "start": closed.start,
                    "end": now,
                    "count": closed.count,
                    "mean": closed.mean,
                    "deviation": closed.deviation,
                    "low": closed.low,
                    "high": closed.high,
                    "average": series.average,
                }
                yield Store(table="statistics", row=row)

    # Reports.

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """What was being written when an earlier life ended is written now, unless it ended one life after the other."""
        for job, attempts in list(self.state.reports.items()):
            if attempts >= self.settings.report_attempts:
                yield self._give_up(job, "the recorder ended each time while it was written", now)
            else:
                yield self.set_timer(ReportDue(job=job), now + self.settings.settle_seconds)

    @on(ReportDue)
    def write_report(self, timer: ReportDue, now: float) -> Effects:
        """Once the last words are in."""
        if timer.job in self.state.reports:
            self.state.reports[timer.job] += 1
            work = ReportWork(job=timer.job)
            yield StartWork(key=_KEY + timer.job, work=work, reason="the job has ended", cause=self._cause)

    @on(ReportBuilt)
    def announce_report(self, event: ReportBuilt, now: float) -> Effects:
        """It is where everyone can fetch it."""
        if self._done(event.job, now):
            yield self.publish(ReportReady(job=event.job, name=event.name, size=event.size, digest=event.digest))

    @on(WorkExited)
    def try_again(self, event: WorkExited, now: float) -> Effects:
        """It could not be written: the server or the disk may come back."""
        job = event.key.removeprefix(_KEY)
        if event.code == 0 or job not in self.state.reports:
            return
        if self.state.reports[job] >= self.settings.report_attempts:
            last = event.last_lines[-1] if event.last_lines else f"exit code {event.code}"
            yield self._give_up(job, last, now)
            return
        yield self.set_timer(ReportDue(job=job), now + self.settings.report_retry_seconds)

    def _give_up(self, job: JobId, reason: str, now: float) -> Effect:
        self._done(job, now)
        return self.publish(InputFailed(agent=self.name, input=f"report of {job}", reason=reason))

    def _done(self, job: JobId, at: float) -> bool:
        """Whether the report was still to be written."""
        self.state.reported.pop(job, None)
        self.state.reported[job] = at
        if len(self.state.reported) > _REPORTED_KEPT:
            del self.state.reported[next(iter(self.state.reported))]
        return self.state.reports.pop(job, None) is not None

    def check(self) -> None:
        """What is kept is bounded, and statistics are those of some figures."""
        self.require(len(self.state.series) <= self.settings.max_nodes, "too many nodes")
        self.require(len(self.state.reported) <= _REPORTED_KEPT, "too many reports are remembered")
        for node, names in self.state.series.items():
            for name, series in names.items():
                recent = series.recent()
                slack = 1e-9 * max(1.0, abs(recent.low), abs(recent.high))
                self.require(recent.count > 0, f"{node}'s {name} has no figures")
                self.require(recent.low - slack <= recent.mean <= recent.high + slack, f"{node}'s {name} has an odd mean")
        for job, attempts in self.state.reports.items():
            self.require(attempts <= self.settings.report_attempts, f"{job}'s report was tried too often")


def _kept() -> Iterator[type[msgspec.Struct]]:
    """Types that are history: records, states, and what the bus says of itself."""
    yield from (wire.type for wire in registered() if wire.delivery in (Delivery.RECORD, Delivery.LAST_VALUE))
    yield from (MessageRejected, BusDisturbed)


Recorder.handlers = dict.fromkeys(_kept(), "keep") | Recorder.handlers

"""The desk: takes jobs in, follows them by their events, and says where they stand. It never directs them."""

import random
from collections.abc import Iterator

from agents.base import Agent, Asked, CancelTimer, Effect, Effects, Purge, Reply, Timer, on, on_request
from agents.inputs import Woken
from agents.job_desk import admission, size, words
from agents.job_desk.settings import JobDeskSettings
from agents.job_desk.state import DeskState, Done, Job
from schemas.decisions import NodeJoined, NodeLost
from schemas.ids import JobId
from schemas.jobs import (
    CancelRequest,
    JobAnswer,
    JobList,
    JobPhase,
    JobQueued,
    JobRefused,
    JobRequest,
    JobState,
    ListRequest,
    ModelStored,
)
from schemas.lengths import most_rounds
from schemas.nodes import WorkFailed, WorkStarted
from schemas.training import Roster, RoundClosed, Validated
from schemas.wire import Answer


class FinishingTooLong(Timer, frozen=True, kw_only=True):
    """No node has stored the job's model in time."""

    job: JobId


class RetentionOver(Timer, frozen=True, kw_only=True):
    """A job ended long enough ago for its training messages to go."""

    job: JobId


class Settled(Timer, frozen=True, kw_only=True):
    """What the streams keep of known jobs has come in by now."""


class JobDesk(Agent[DeskState]):
    """Admission, queue and state of jobs."""

    name = "job_desk"

    def __init__(self, settings: JobDeskSettings, rng: random.Random, state: DeskState | None = None) -> None:
        super().__init__(state or DeskState(), rng)
        self.settings = settings

    # Taking jobs in.

    @classmethod
    def refusal(cls, field: str, reason: str) -> Answer:
        """The answer to a request that didn't decode."""
        return JobAnswer(accepted=False, field=field, reason=reason)

    @on_request(JobRequest)
    def submit(self, asked: Asked, now: float) -> Effects:
        """Accept or refuse; the acceptance is stored before the answer goes out."""
        request = asked.request
        assert isinstance(request, JobRequest)
        refused = self._refuse(request)
        if refused:
            later = admission.come_back(refused, self.state.unfinished(), now)
            answer = JobAnswer(accepted=False, field=refused[0], reason=refused[1], retry_after=later)
            yield Reply(to=asked.reply_to, answer=answer)
            return
        job = request.id or admission.new_id(request.kind, self.state.jobs, self.rng)
        if job not in self.state.jobs:
            yield from self._accept(job, request, asked.at)
        yield Reply(to=asked.reply_to, answer=JobAnswer(accepted=True, job=job))

    @on(JobQueued)
    def take_from_queue(self, event: JobQueued, now: float) -> Effects:
        """A job that was submitted while no desk was there."""
        request = event.request
        if not self.state.settled and len(self.state.waiting) < self.settings.max_unfinished:
            self.state.waiting.append(event)
            return
        refused = self._refuse(request)
        if request.id is None:
            refused = "$.id", "compulsory in the queue: it makes the request idempotent"
        if refused:
            later = admission.come_back(refused, self.state.unfinished(), now)
            yield self.publish(JobRefused(job=request.id or "", field=refused[0], reason=refused[1], retry_after=later))
        elif request.id is not None and request.id not in self.state.jobs:
            yield from self._accept(request.id, request, event.at)

    def _refuse(self, request: JobRequest) -> admission.Refusal | None:
        known = self.state.jobs.get(request.id) if request.id is not None else None
        if known is not None:
            return None if known.request == request else ("$.id", f"{known.id} is another job: same id, other body")
        wrong = admission.objection(request)
        if wrong:
            return wrong
        if request.resume is not None:
            model = self.state.jobs.get(request.resume)
            if model is None:
                return "$.resume", f"there is no job {request.resume}: `shoal jobs` lists those that are known"
            if not model.has_checkpoint:
                return "$.resume", f"{model.id} has stored no checkpoint"
        unfinished = len(self.state.unfinished())
        if unfinished >= self.settings.max_unfinished:
            return admission.FULL, f"{unfinished} jobs are queued or running, which is the limit: wait, or cancel one"
        return None

    def _accept(self, job: JobId, request: JobRequest, at: float) -> Iterator[Effect]:
        self.state.order += 1
        entry = Job(id=job, request=request, submitted_at=at, order=self.state.order)
        self.state.jobs[job] = entry
        yield self._change(entry, JobPhase.QUEUED, words.waiting(entry, self.state.alive(), self.state.under_way()))

    @on_request(CancelRequest)
    def cancel(self, asked: Asked, now: float) -> Effects:
        """End a job before its time; cancelling twice is no error."""
        request = asked.request
        assert isinstance(request, CancelRequest)
        job = self.state.jobs.get(request.job)
        wrong = None
        if job is None:
            wrong = f"there is no job {request.job}: `shoal jobs` lists those that are known"
        elif job.phase.ended and job.phase is not JobPhase.CANCELLED:
            wrong = f"{job.id} has ended already: {job.phase.value}"
        if wrong is None and job is not None:
            if not job.phase.ended:
                yield from self._end(job, JobPhase.CANCELLED, request.reason, now)
            yield Reply(to=asked.reply_to, answer=JobAnswer(accepted=True, job=job.id))
        else:
            yield Reply(to=asked.reply_to, answer=JobAnswer(accepted=False, field="$.job", reason=wrong))

    @on_request(ListRequest)
    def list_jobs(self, asked: Asked, now: float) -> Effects:
        """The jobs that the desk knows, newest first."""
        request = asked.request
        assert isinstance(request, ListRequest)
        known = [phase.value for phase in JobPhase]
        for position, state in enumerate(request.states):
            if state not in known:
                reason = f"{state!r} is no state of a job: there are {', '.join(known)}"
                yield Reply(
                    to=asked.reply_to, answer=JobAnswer(accepted=False, field=f"$.states[{position}]", reason=reason)
                )
                return
        newest = sorted(self.state.jobs.values(), key=lambda job: -job.order)
        rows = tuple(job.as_summary() for job in newest if not request.states or job.phase.value in request.states)
        yield Reply(to=asked.reply_to, answer=JobList(jobs=rows))

    # Following them.

    @on(NodeJoined)
    def count_in(self, event: NodeJoined, now: float) -> Effects:
        """A node more to start jobs with."""
        self.state.nodes[event.node] = None
        yield from self._say_who_waits()

    @on(NodeLost)
    def count_out(self, event: NodeLost, now: float) -> Effects:
        """A node less."""
        self.state.nodes[event.node] = now
        self._forget_lost(now)
        yield from self._say_who_waits()

    def _forget_lost(self, now: float) -> None:
        for node, lost_at in sorted(self.state.nodes.items()):
            if lost_at is not None and now - lost_at > self.settings.return_seconds:
                del self.state.nodes[node]

    def _say_who_waits(self) -> Iterator[Effect]:
        alive = self.state.alive()
        for job in self.state.unfinished():
            if job.phase is JobPhase.QUEUED:
                reason = words.waiting(job, alive, self.state.under_way())
            elif job.phase is JobPhase.RUNNING and job.roster and not set(job.roster) & set(alive):
                reason = f"waiting for nodes: {words.names(job.roster)} are lost"
            else:
                continue
            if reason != job.reason:
                yield self._change(job, job.phase, reason)

    @on(Roster)
    def start(self, event: Roster, now: float) -> Effects:
        """The selector has chosen who takes part: the job runs."""
        job = self._going_on(event.job)
        if job is None or event.version <= job.roster_version:
            return
        if not event.nodes:
            yield from self._wait(job, event)
            return
        waited, job.waits = job.waits, False
        job.roster, job.roster_version = event.nodes, event.version
        new = job.phase is JobPhase.QUEUED
        if new:
            job.running_since = now
        if new or (waited and job.phase is JobPhase.RUNNING):
            on_nodes = f"running on {words.count(len(event.nodes), 'node')}: {words.names(event.nodes)}"
            yield self._change(job, JobPhase.RUNNING, on_nodes)
        if not new:
            yield from self._fail_if_hopeless(job, now)

    def _wait(self, job: Job, event: Roster) -> Iterator[Effect]:
        """Nobody can go on with it now, although its nodes live; what is to be said of lost ones is said elsewhere."""
        if job.phase is JobPhase.RUNNING and set(job.roster) & set(self.state.alive()):
            job.waits, job.roster_version = True, event.version
            yield self._change(job, JobPhase.RUNNING, f"waiting for nodes: {event.reason}")

    @on(RoundClosed)
    def count_round(self, event: RoundClosed, now: float) -> Effects:
        """A round further; after the last the model is to be stored."""
        job = self._going_on(event.job)
        if job is None or event.round <= job.round:
            return
        job.round, job.loss = event.round, event.loss
        size.count(job, event)
        if event.round >= most_rounds(job.request):
            yield from self._finish(job, f"all {most_rounds(job.request)} rounds are closed; storing the model", now)
        elif size.enough(job):
            yield from self._finish(job, f"{size.enough(job)}; storing the model", now)
        elif job.phase is not JobPhase.FINISHING:
            yield self._change(job, JobPhase.RUNNING, words.closed(job, event))

    @on(Validated)
    def compare_with_target(self, event: Validated, now: float) -> Effects:
        """Good enough is the end."""
        job = self._going_on(event.job)
        if job is None or job.request.target_loss is None or event.loss > job.request.target_loss:
            return
        reached = (
            f"validation loss {event.loss:.4g} after round {event.round} is at the target {job.request.target_loss:.4g}"
        )
        yield from self._finish(job, f"{reached}; storing the model", now)

    def _finish(self, job: Job, reason: str, now: float) -> Iterator[Effect]:
        if job.phase is JobPhase.FINISHING:
            return
        job.finish_by = now + self.settings.finishing_seconds
        yield self._change(job, JobPhase.FINISHING, reason)
        yield self.set_timer(FinishingTooLong(job=job.id), job.finish_by)

    @on(FinishingTooLong)
    def give_up_on_model(self, timer: FinishingTooLong, now: float) -> Effects:
        """The rounds are closed, but nobody has stored what came of them."""
        job = self._going_on(timer.job)
        if job is not None and job.phase is JobPhase.FINISHING:
            reason = f"no node stored the model within {self.settings.finishing_seconds:.0f} s after the last round"
            yield from self._end(job, JobPhase.FAILED, reason, now)

    @on(ModelStored)
    def complete(self, event: ModelStored, now: float) -> Effects:
        """The model is where users find it: the job is done."""
        job = self.state.jobs.get(event.job)
        if job is None:
            return
        job.stored_round = max(event.round, job.stored_round or 0)
        if event.final and not job.phase.ended:
            reason = f"{words.count(max(job.round, event.round), 'round')}; the model is {event.name}"
            yield from self._end(job, JobPhase.COMPLETED, reason, now)

    @on(WorkStarted)
    def hope(self, event: WorkStarted, now: float) -> None:
        """A node on which the job had failed tries again."""
        job = self._going_on(event.job)
        if job is not None:
            job.failed.pop(event.node, None)

    @on(WorkFailed)
    def count_failure(self, event: WorkFailed, now: float) -> Effects:
        """The job has failed on a node for good. Not so where a node declines: its owner may be asked, and others come."""
        job = self._going_on(event.job)
        if job is None or event.retry or event.kind == "declined":
            return
        job.failed[event.node] = words.failure(event)
        yield from self._fail_if_hopeless(job, now, f"{event.node}: {job.failed[event.node]}")

    def _fail_if_hopeless(self, job: Job, now: float, last: str = "") -> Iterator[Effect]:
        """Fail a job that too few nodes can still run; lost nodes may come back, so they count for a while."""
        self._forget_lost(now)
        possible = (set(self.state.nodes) | set(job.roster)) - set(job.failed) - set(job.request.exclude)
        if not last and job.failed:
            node = max(job.failed)
            last = f"{node}: {job.failed[node]}"
        others = set(self.state.alive()) - set(job.failed) - set(job.request.exclude)
        tried = len(job.failed) > 1 or not others  # a lone node may be at fault itself, where others are there
        if job.roster and set(job.roster) <= set(job.failed) and tried:
            yield from self._end(job, JobPhase.FAILED, f"failed on every node of its roster; {last}", now)
        elif job.failed and len(possible) < job.request.min_nodes:
            left = (
                f"failed on {words.names(job.failed)}, which leaves fewer than {words.count(job.request.min_nodes, 'node')}"
            )
            yield from self._end(job, JobPhase.FAILED, f"{left}; {last}", now)

    # Ending them, and lives of the desk.

    def _going_on(self, job: JobId) -> Job | None:
        entry = self.state.jobs.get(job)
        return entry if entry is not None and not entry.phase.ended else None

    def _change(self, job: Job, phase: JobPhase, reason: str) -> Effect:
        job.phase, job.reason = phase, reason
        job.version += 1
        return self.publish(job.as_state())

    def _end(self, job: Job, phase: JobPhase, reason: str, now: float) -> Iterator[Effect]:
        job.ends += 1
        yield self._change(job, phase, reason)
        if job.finish_by is not None:
            job.finish_by = None
            yield CancelTimer(timer=FinishingTooLong(job=job.id))
        yield from self._retain(job, now)

    def _retain(self, job: Job, now: float) -> Iterator[Effect]:
        job.purge_at = now + self.settings.retention_seconds
        yield self.set_timer(RetentionOver(job=job.id), job.purge_at)
        for oldest in self.state.ended()[: -self.settings.keep_ended]:
            del self.state.jobs[oldest.id]
            yield CancelTimer(timer=RetentionOver(job=oldest.id))
            for subjects in (f"shoal.training.{oldest.id}.>", f"shoal.jobs.{oldest.id}.>"):
                yield Purge(subjects=subjects, reason=f"{self.settings.keep_ended} jobs have ended since")

    @on(RetentionOver)
    def purge(self, timer: RetentionOver, now: float) -> Effects:
        """What was said in training is history now; the job's state, model and report stay."""
        job = self.state.jobs.get(timer.job)
        if job is not None and job.purge_at is not None:
            job.purge_at = None
            yield Purge(subjects=f"shoal.training.{job.id}.>", reason="the job ended long ago")

    @on(JobState)
    def adopt(self, event: JobState, now: float) -> Effects:
        """The desk's own last word, heard again: known unless the desk has lost its memory, then it goes on from there."""
        known = self.state.jobs.get(event.job)
        if known is not None and known.version >= event.version:
            return
        self.state.order += 1
        least = event.round * event.request.rounds / most_rounds(event.request)
        job = Job(
            id=event.job,
            request=event.request,
            submitted_at=event.submitted_at,
            order=known.order if known else self.state.order,
            phase=event.state,
            reason=event.reason,
            version=event.version,
            round=event.round,
            loss=event.loss,
            ends=int(event.state.ended),
            done=Done(samples=least, steps=least),
            adopted=True,
        )
        self.state.jobs[job.id] = job
        if job.phase.ended:
            yield from self._retain(job, now)
        elif job.phase is JobPhase.FINISHING:
            job.finish_by = now + self.settings.finishing_seconds
            yield self.set_timer(FinishingTooLong(job=job.id), job.finish_by)

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """Set the deadlines again that an earlier life had set."""
        if not event.resumed:
            self.state.settled = False
        if not self.state.settled:
            yield self.set_timer(Settled(), now + self.settings.settle_seconds)
        for job in sorted(self.state.jobs.values(), key=lambda job: job.order):
            if job.finish_by is not None:
                yield self.set_timer(FinishingTooLong(job=job.id), job.finish_by)
            if job.purge_at is not None:
                yield self.set_timer(RetentionOver(job=job.id), job.purge_at)

    @on(Settled)
    def open_queue(self, timer: Settled, now: float) -> Effects:
        """Look at the jobs that waited for the states of known ones."""
        self.state.settled = True
        waiting, self.state.waiting = self.state.waiting, []
        for event in waiting:
            self._cause = event.id
            yield from self.take_from_queue(event, now)

    def check(self) -> None:
        """An accepted job ends at most once; what is kept is bounded; only what is under way has nodes and rounds."""
        for job in self.state.jobs.values():
            self.require(job.version >= 1, f"{job.id} was never said to be anything")
            self.require(job.ends == int(job.phase.ended), f"{job.id} is {job.phase.value} and ended {job.ends} times")
            self.require(
                (job.finish_by is not None) == (job.phase is JobPhase.FINISHING), f"{job.id}: deadline of finishing"
            )
            self.require(job.purge_at is None or job.phase.ended, f"{job.id} is to be purged before its end")
            self.require(job.phase is not JobPhase.QUEUED or job.round == 0, f"{job.id} has rounds in the queue")
        self.require(len(self.state.ended()) <= self.settings.keep_ended, "too many ended jobs are kept")
        admitted = [job for job in self.state.unfinished() if not job.adopted]
        self.require(len(admitted) <= self.settings.max_unfinished, "too many unfinished jobs")
        self.require(len(self.state.waiting) <= self.settings.max_unfinished, "too many jobs wait to be looked at")

"""The agent of one machine: alive is said every second, job processes follow rosters, failures are told and retried."""

from collections.abc import Iterator

import msgspec

from agents.base import CancelTimer, Effect, Effects, Probe, SetTimer, StartWork, StopWork, Timer, on
from agents.inputs import ProbeReturned, Stopping, Woken, WorkExited, WorkLines
from agents.node import owner, policy
from agents.node.giving_way import GivingWay
from agents.node.state import ENDED_KEPT, JobHere
from agents.node.works import (
    EXIT_BUS,
    AbortWork,
    BundleArriving,
    SampleMachine,
    TrainingWork,
    TrustChanged,
)
from schemas.healing import HealingOrdered
from schemas.health import WorkStalled
from schemas.ids import JobId
from schemas.jobs import JobState
from schemas.network import LinkProbed
from schemas.nodes import (
    NodeHeartbeat,
    NodeLeaving,
    NodeMended,
    NodeProfile,
    WorkEnded,
    WorkFailed,
    WorkPrinted,
    WorkStarted,
)
from schemas.training import Roster, TrainingProgress

_PREFIX = "job/"
STALL_AGREED = 0.8
"""Part of the silence that the failure detector speaks of which a node must have seen itself: a process's last word is on
its way to either for up to some seconds."""


class HeartbeatDue(Timer, frozen=True, kw_only=True):
    """Time to say that this node lives."""


class ProbeDue(Timer, frozen=True, kw_only=True):
    """Time to measure a round trip."""


class RestartDue(Timer, frozen=True, kw_only=True):
    """A failed job has waited long enough to be started again."""

    job: JobId


class NoProgress(Timer, frozen=True, kw_only=True):
    """A job process has shown no progress for as long as its request allows."""

    job: JobId


_OF_NO_JOB = (HeartbeatDue, ProbeDue, ProbeReturned)
"""Inputs after which all jobs are as they were."""


class NodeAgent(GivingWay):
    """Owns a machine."""

    # Being there.

    @on(Woken)
    def introduce(self, event: Woken, now: float) -> Effects:
        """Say what this machine is; no process of an earlier life is left."""
        s = self.settings
        for here in self.state.jobs.values():
            here.at_work, here.stopping, here.hung, here.retry_at = False, "", False, None
        self.state.heard_at, self.state.measuring = now, ""
        self.state.need = owner.Need(by_hand=self.state.need.by_hand, version=int(event.at * 1000))
        yield self.publish(
            NodeProfile(
                node=s.node,
                version=self.state.need.version,
                host=s.host,
                site=s.site,
                site_named=s.site_named,
                cpus=s.cpus,
                memory_bytes=s.memory_bytes,
                accelerators=s.accelerators,
                python=s.python,
                torch=s.torch,
                shoal=s.shoal,
                emulated_link=s.emulated_link,
                slowdown=s.slowdown,
                step_time_ms=s.step_time_ms,
            )
        )
        yield from self.beat(HeartbeatDue(), now)
        yield from self.probe(ProbeDue(), now)
        yield from self._give_way(now)
        for job, here in list(self.state.jobs.items()):  # a job that ended while the node was away is forgotten
            yield from self._settle(job, here, now, "the node is back")

    @on(HeartbeatDue)
    def beat(self, timer: HeartbeatDue, now: float) -> Effects:
        """Alive, with the last look at the machine; now and then a new look."""
        s, sample = self.settings, self.state.sample
        self.state.sequence += 1
        yield self.publish(
            NodeHeartbeat(
                node=s.node,
                sequence=self.state.sequence,
                interval=s.heartbeat_seconds,
                cpu_percent=sample.cpu_percent if sample else 0.0,
                memory_used_bytes=sample.memory_used_bytes if sample else 0,
                accelerators=sample.accelerators if sample else (),
                jobs=tuple(sorted(job for job, here in self.state.jobs.items() if here.at_work)),
                temperature_c=sample.temperature_c if sample else None,
                disk_used_part=sample.disk_used_part if sample else None,
            )
        )
        yield SetTimer(timer=timer, at=now + s.heartbeat_seconds)
        every = 1 if s.yield_to_owner else s.sample_every
        if self.state.sequence % every == 1 or every == 1:
            yield StartWork(key="sample", work=SampleMachine(owner=s.yield_to_owner), reason="for the heartbeat")

    @on(ProbeDue)
    def probe(self, timer: ProbeDue, now: float) -> Effects:
        """Measure the link."""
        self.state.probes += 1
        yield Probe(sequence=self.state.probes, timeout=self.settings.probe_timeout_seconds)
        yield SetTimer(timer=timer, at=now + self.settings.probe_seconds)

    @on(ProbeReturned)
    def tell_probe(self, event: ProbeReturned, now: float) -> Effects:
        """What the link is like now. After a silence of the server job processes get their time anew."""
        if event.rtt is not None:
            deaf = now - self.state.heard_at > self.settings.deaf_seconds
            self.state.heard_at = now
            for job, here in self.state.jobs.items():
                if deaf and here.at_work and not here.stopping:
                    here.progress_at = now
                    yield self._watch(job, here, now)
        rtt_ms = None if event.rtt is None else event.rtt * 1000
        yield self.publish(
            LinkProbed(node=self.settings.node, sequence=event.sequence, rtt_ms=rtt_ms, retransmitted=event.retransmitted)
        )

    @on(Stopping)
    def leave(self, event: Stopping, now: float) -> Effects:
        """Say goodbye, and end all processes."""
        yield self.publish(NodeLeaving(node=self.settings.node, reason=event.reason))
        for job, here in self.state.jobs.items():
            if here.at_work:
                here.stopping = event.reason
                yield StopWork(key=_PREFIX + job, reason=event.reason)

    # Which jobs should be at work here.

    @on(JobState)
    def follow_job(self, event: JobState, now: float) -> Effects:
        """A job goes on, or is over."""
        if event.job in self.state.ended and event.submitted_at <= self.state.ended[event.job]:
            return
        self.state.ended.pop(event.job, None)
        here = self.state.jobs.get(event.job)
        if event.state.ended:
            self.state.remember_ended(event)
            if here is None:
                return
        elif here is None:
            here = self.state.jobs[event.job] = JobHere()
        if event.version <= here.version:
            return
        here.version, here.phase, here.submitted_at = event.version, event.state, event.submitted_at
        here.request = event.request
        yield from self._settle(event.job, here, now, f"the job is {event.state.value}: {event.reason}")

    @on(Roster)
    def follow_roster(self, event: Roster, now: float) -> Effects:
        """This node is in a job, or not."""
        if event.job in self.state.ended:
            return
        if event.job not in self.state.jobs:
            self.state.make_room()
        here = self.state.jobs.setdefault(event.job, JobHere())
        if event.version <= here.roster_version:
            return
        here.roster_version = event.version
        here.enrolled = self.settings.node in event.nodes
        need, mine = self.state.need, self.settings.node
        # A roster may have been drawn up before the selector heard that this node goes on. (All who have never yielded are
        # spared a look through everybody who is out, who are many in a large fleet.)
        out_for_it = need.reason and any((out.node, out.reason) == (mine, need.reason) for out in event.excluded)
        yields = need.pauses or bool(out_for_it)
        if here.enrolled or not event.nodes or not yields:
            here.last = set(event.nodes) <= {mine}
        if not here.enrolled:
            here.given_up, here.failures = False, 0  # a roster that takes it in again asks for another try
        taken = "is in" if here.enrolled else "is not in"
        yield from self._settle(event.job, here, now, f"the node {taken} roster {event.version}: {event.reason}")

    def _settle(self, job: JobId, here: JobHere, now: float, reason: str) -> Iterator[Effect]:
        """Bring what runs into line with what should."""
        if self._wanted(here):
            if not here.at_work and here.retry_at is None:
                yield from self._start(job, here, now, reason)
            return
        if here.retry_at is not None:
            here.retry_at = None
            yield CancelTimer(timer=RestartDue(job=job))
        if here.at_work and not here.stopping and not here.stays:
            here.stopping = reason
            yield CancelTimer(timer=NoProgress(job=job))
            yield StopWork(key=_PREFIX + job, reason=reason, cause=self._cause)
        if here.phase.ended and not here.at_work:
            del self.state.jobs[job]

    def _wanted(self, here: JobHere) -> bool:
        """Whether a process of a job should be here: the job wants it, and the machine's owner doesn't want it away."""
        return here.wanted and not self.state.need.pauses

    def _start(self, job: JobId, here: JobHere, now: float, reason: str) -> Iterator[Effect]:
        assert here.request is not None
        here.attempt += 1
        here.at_work, here.started_at = True, now
        if here.attempt == 1:
            here.log_tokens, here.log_at = float(self.settings.log_burst), now
        work = TrainingWork(job=job, request=here.request, attempt=here.attempt)
        yield StartWork(key=_PREFIX + job, work=work, reason=reason, cause=self._cause)
        yield self.publish(WorkStarted(node=self.settings.node, job=job, attempt=here.attempt, reason=reason))
        yield self._watch(job, here, now, starting=True)

    def _watch(self, job: JobId, here: JobHere, now: float, starting: bool = False) -> Effect:
        assert here.request is not None
        allowance = self.settings.startup_seconds if starting else 0.0
        return self.set_timer(NoProgress(job=job), now + here.request.hang_seconds + allowance)

    # Watching over them.

    @on(TrainingProgress)
    def see_progress(self, event: TrainingProgress, now: float) -> Effects:
        """It works, so it doesn't hang."""
        here = self.state.jobs.get(event.job)
        if event.node == self.settings.node and here is not None and here.at_work and not here.stopping:
            here.progress_at = now
            yield self._watch(event.job, here, now, starting=event.doing == "loading")

    @on(BundleArriving)
    def see_arriving(self, event: BundleArriving, now: float) -> Effects:
        """Its code is on the way."""
        here = self.state.jobs.get(event.job)
        if here is not None and here.at_work and not here.stopping:
            yield self._watch(event.job, here, now, starting=True)

    @on(NoProgress)
    def end_hung(self, timer: NoProgress, now: float) -> Effects:
        """Alive but not working: end it, so that it prints where it hangs. Unless the silence is the server's."""
        here = self.state.jobs.get(timer.job)
        if here is None or not here.at_work or here.stopping or here.request is None:
            return
        if now - self.state.heard_at > self.settings.deaf_seconds:
            yield self._watch(timer.job, here, now)
            return
        yield from self._abort(timer.job, here, f"no progress for {here.request.hang_seconds:.0f} s")

    @on(WorkStalled)
    def end_stalled(self, event: WorkStalled, now: float) -> Effects:
        """The failure detector knows the pace of its steps, and misses them: so it hangs, if none was seen here either."""
        here = self.state.jobs.get(event.job)
        if here is None or not here.at_work or here.stopping or now - self.state.heard_at > self.settings.deaf_seconds:
            return
        if now - max(here.progress_at, here.started_at) >= STALL_AGREED * event.silent_seconds:
            yield CancelTimer(timer=NoProgress(job=event.job))
            yield from self._abort(event.job, here, event.reason)

    @on(HealingOrdered)
    def start_anew(self, event: HealingOrdered, now: float) -> Effects:
        """The healer wants a process started anew: not where it alone holds what was learnt."""
        if event.remedy != "restart" or now - self.state.heard_at > self.settings.deaf_seconds:
            return
        for job, here in self.state.jobs.items():
            if event.job in (None, job) and here.at_work and not here.stopping and not here.last:
                here.stopping = event.reason
                yield CancelTimer(timer=NoProgress(job=job))
                yield StopWork(key=_PREFIX + job, reason=event.reason, cause=self._cause)

    def _abort(self, job: JobId, here: JobHere, why: str) -> Iterator[Effect]:
        """End a process that hangs; it prints where."""
        here.hung, here.stopping = True, why
        key = _PREFIX + job
        yield StartWork(key=f"abort/{job}", work=AbortWork(target=key), reason=why, cause=self._cause)
        yield StopWork(key=key, reason=why, cause=self._cause)

    @on(WorkLines)
    def pass_on(self, event: WorkLines, now: float) -> Effects:
        """What a job prints, as far as it keeps within bounds."""
        job = event.key.removeprefix(_PREFIX)
        here = self.state.jobs.get(job)
        if here is None:
            return
        lines, dropped = policy.admit_lines(here, event.lines, now, self.settings)
        if dropped:
            lines = (self._left_out(dropped), *lines)
        for first in range(0, len(lines), self.settings.log_batch):
            batch = lines[first : first + self.settings.log_batch]
            yield self.publish(WorkPrinted(node=self.settings.node, job=job, lines=batch))

    def _left_out(self, dropped: int) -> str:
        return f"[{dropped} left out: more than {self.settings.log_lines_per_second:.0f} lines a second]"

    @on(WorkExited)
    def judge_exit(self, event: WorkExited, now: float) -> Effects:
        """A process has ended: as it should, or not, then it is started again for a while."""
        job = event.key.removeprefix(_PREFIX)
        here = self.state.jobs.get(job)
        if not event.key.startswith(_PREFIX) or here is None or not here.at_work:
            return
        yield CancelTimer(timer=NoProgress(job=job))
        if here.log_dropped:
            note = self._left_out(here.log_dropped)
            here.log_dropped = 0
            yield self.publish(WorkPrinted(node=self.settings.node, job=job, lines=(note,)))
        asked, hung = here.stopping, here.hung
        here.at_work, here.stopping, here.hung = False, "", False
        if (asked and not hung) or (event.code == 0 and not self._wanted(here)):
            yield self.publish(WorkEnded(node=self.settings.node, job=job, reason=asked or "the job is over"))
        else:
            why = policy.Failure("hung", asked, True) if hung else policy.failure(event.code, event.last_lines)
            yield from self._judge_failure(job, here, event, why, now)
        yield from self._settle(job, here, now, "its process has ended")

    def _judge_failure(
        self, job: JobId, here: JobHere, event: WorkExited, why: policy.Failure, now: float
    ) -> Iterator[Effect]:
        if now - here.started_at >= self.settings.healthy_seconds:
            here.failures = 0
        here.failures += 1
        if event.code == EXIT_BUS:  # the server's outage, not the job's fault: never the last straw
            here.failures = min(here.failures, self.settings.attempts - 1)
        retry = why.may_pass and here.failures < self.settings.attempts and here.wanted
        pause = policy.back_off(here.failures, self.settings)
        if event.code == 0 and why.kind == "start" and retry:
            # Often it has heard of the job's end a moment before this agent does; if not, it is wanted again.
            yield self.publish(WorkEnded(node=self.settings.node, job=job, reason=why.words))
        else:
            then = f"starts again in {pause:g} s" if retry else "given up on this node"
            here.given_up = not retry and here.wanted
            here.refused = why.kind in ("bundle", "declined")
            yield self.publish(
                WorkFailed(
                    node=self.settings.node,
                    job=job,
                    attempt=here.attempt,
                    kind=why.kind,
                    code=event.code,
                    last_lines=() if here.refused else event.last_lines,  # the reason says it already
                    retry=retry,
                    reason=f"{why.words}; {then}",
                )
            )
        if retry:
            here.retry_at = now + pause
            yield self.set_timer(RestartDue(job=job), here.retry_at)

    @on(RestartDue)
    def restart(self, timer: RestartDue, now: float) -> Effects:
        """Try again, if the job still wants this node."""
        here = self.state.jobs.get(timer.job)
        if here is not None and here.retry_at is not None:
            here.retry_at = None
            yield from self._settle(timer.job, here, now, f"another attempt after {here.failures} failures")

    @on(TrustChanged)
    def try_again(self, event: TrustChanged, now: float) -> Effects:
        """Jobs whose code was refused may be welcome now."""
        yield self.publish(NodeMended(node=self.settings.node, reason="its owner has changed whom it trusts"))
        for job, here in list(self.state.jobs.items()):
            if here.given_up and here.refused:
                here.given_up, here.failures = False, 0
                yield from self._settle(job, here, now, "its owner has changed whom it trusts")

    def check(self) -> None:
        """A job has one process at most, and none where it should not have one but for those that are ending."""
        for job, here in self.state.jobs.items():
            self.require(not here.at_work or here.retry_at is None, f"{job} is at work and waits to be started")
            self.require(
                self._wanted(here) or here.stays or not here.at_work or bool(here.stopping),
                f"{job} is at work and should not be",
            )
            self.require(here.at_work or not here.stopping, f"{job} is being stopped but not at work")
            self.require(not here.phase.ended or here.at_work, f"{job} is over and still kept")
            self.require(here.failures <= self.settings.attempts, f"{job} failed more often than allowed")
        self.require(len(self.state.ended) <= ENDED_KEPT, "too many ended jobs are remembered")

    def check_after(self, event: msgspec.Struct) -> None:
        """`check`, unless the input is one of the many that change nothing of any job."""
        if not isinstance(event, _OF_NO_JOB):
            self.check()

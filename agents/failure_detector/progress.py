"""Alive is not working: job processes whose steps stop coming, by the pace that they had."""

from agents.base import Effects, Timer, on
from agents.failure_detector import policy, words
from agents.failure_detector.doubts import Doubting
from agents.failure_detector.state import Pace
from schemas.health import WorkStalled
from schemas.ids import JobId, NodeId
from schemas.jobs import JobState
from schemas.nodes import NodeYielding, WorkEnded, WorkFailed, WorkStarted
from schemas.training import TrainingProgress

SIGN = 1.0
"""Seconds between signs of life of steps that nothing is known of: twice what job processes keep to."""


class StallDue(Timer, frozen=True, kw_only=True):
    """A job process has been computing without a step for too long, unless it has spoken since."""

    job: JobId
    node: NodeId


class Progress(Doubting):
    """The part of the failure detector that watches job processes."""

    @on(TrainingProgress)
    def see_progress(self, event: TrainingProgress, now: float) -> Effects:
        """Another step, or something else to do: only steps have a pace that can be learned."""
        node = self.state.nodes.get(event.node)
        if node is None:
            return
        pace = node.paces.get(event.job)
        if pace is None:
            pace = node.paces[event.job] = Pace(gaps=policy.unknown(SIGN, self.settings))
        if pace.computing and pace.at >= max(node.present_since, self.state.ears.since):
            policy.learn(pace.gaps, now - pace.at, SIGN)
        pace.at, pace.computing, pace.told = now, event.doing == "computing", False
        if pace.computing and not pace.armed:
            pace.armed = True
            yield self.set_timer(StallDue(job=event.job, node=event.node), now + policy.stalling(pace, self.settings))

    @on(StallDue)
    def doubt_work(self, timer: StallDue, now: float) -> Effects:
        """Said only of a node that is itself beyond doubt, and has been for as long."""
        node = self.state.nodes.get(timer.node)
        pace = node.paces.get(timer.job) if node is not None else None
        if node is None or pace is None:
            return
        pace.armed = False
        if not pace.computing or pace.told:
            return
        if pace.gaps.count < self.settings.stall_signs:
            return  # its pace is not known; the next sign of it asks for another look
        since = max(pace.at, node.present_since, self.state.ears.since)
        limit = policy.stalling(pace, self.settings)
        if now - since < limit or node.doubt is not None:
            pace.armed = True
            yield self.set_timer(timer, max(since + limit, now + SIGN))
            return
        pace.told = True
        silent, usual = now - pace.at, pace.gaps.mean
        yield self.publish(
            WorkStalled(
                node=timer.node,
                job=timer.job,
                silent_seconds=silent,
                usual_seconds=usual,
                reason=words.stalled(timer.job, silent, usual),
            )
        )

    @on(WorkStarted)
    def await_steps(self, event: WorkStarted, now: float) -> None:
        """A process begins anew; its machine is as fast as it was, but has another load."""
        self._let_be(event.node, event.job)
        node = self.state.nodes.get(event.node)
        if node is not None:
            node.figures.clear()

    @on(WorkEnded)
    def forget_work(self, event: WorkEnded, now: float) -> None:
        """A process has ended."""
        self._let_be(event.node, event.job)

    @on(WorkFailed)
    def forget_failed(self, event: WorkFailed, now: float) -> None:
        """Likewise."""
        self._let_be(event.node, event.job)

    @on(NodeYielding)
    def allow_for_owner(self, event: NodeYielding, now: float) -> None:
        """Its owner comes first: jobs there are slow, or stand still."""
        node = self.state.nodes.get(event.node)
        for job in node.paces if node is not None else ():
            self._let_be(event.node, job)

    @on(JobState)
    def forget_job(self, event: JobState, now: float) -> None:
        """A job that ended has no processes."""
        if event.state.ended:
            for node in self.state.nodes.values():
                node.paces.pop(event.job, None)

    def _let_be(self, name: NodeId, job: JobId) -> None:
        node = self.state.nodes.get(name)
        pace = node.paces.get(job) if node is not None else None
        if pace is not None:
            pace.computing = False

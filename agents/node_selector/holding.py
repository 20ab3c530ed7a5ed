"""Nodes that are held out for a while: quarantines and their ends, and what the healer orders."""

from abc import abstractmethod
from collections.abc import Generator

from agents.base import Effect, Effects, Timer, on
from agents.inputs import Woken
from agents.node_selector import conduct
from agents.node_selector.fleet import Fleet, QuarantineOver
from agents.node_selector.roster import entitled, held_by
from agents.node_selector.state import Hold, Job
from schemas.decisions import NodeQuarantined, NodeReleased
from schemas.healing import HealingOrdered
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase


class HoldOver(Timer, frozen=True, kw_only=True):
    """What the healer ordered of a node is over."""

    hold: str
    """Its name among the selector's holds."""


class Holding(Fleet):
    """The part of the node selector that keeps nodes out for a time, and lets them in again when that is over or a job
    needs them."""

    @abstractmethod
    def _can_spare(self, job: Job, node: NodeId) -> bool:
        """Whether a job has enough nodes without this one."""

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """Deadlines are set again."""
        yield from super().wake(event, now)
        for name, hold in self.state.holds.items():
            yield self.set_timer(HoldOver(hold=name), max(hold.until, now))

    @on(QuarantineOver)
    def release(self, timer: QuarantineOver, now: float) -> Effects:
        """A quarantine has been served."""
        record = self.state.nodes.get(timer.node)
        if record is None or not record.conduct.quarantined:
            return
        if now < record.conduct.until:
            yield self.set_timer(timer, record.conduct.until)
            return
        yield from self._free(timer.node, "its quarantine is over; on probation now")
        yield from self._review(now, f"{timer.node} is released from quarantine, on probation")

    def _free(self, node: NodeId, why: str) -> Effects:
        record = self.state.nodes[node]
        if record.conduct.quarantined:
            conduct.release(record.conduct, self.settings)
        record.drained = ""
        for job in self.state.jobs.values():
            if node in job.members:
                job.members[node].moved = ""
        yield self.publish(NodeReleased(node=node, reason=why))

    def _release_needed(self) -> Generator[Effect, None, bool]:
        """Lets nodes in early where a job would otherwise have fewer than it needs; gives whether it did."""
        released = False
        if not any(
            record.alive and (record.conduct.quarantined or record.drained) for record in self.state.nodes.values()
        ) and not any(member.moved for job in self.state.jobs.values() for member in job.members.values()):
            return released
        for name, job in self.state.jobs.items():
            fair = entitled(self.state, job)
            lacking = job.request.min_nodes - sum(right.eligible for right in fair.values())
            confined = [node for node, right in fair.items() if right.confined]
            if lacking <= 0 or job.phase is JobPhase.FINISHING or (job.version == 0 and len(confined) < lacking):
                continue
            confined.sort(key=lambda node: self.state.nodes[node].conduct.level)
            for node in confined[:lacking]:
                released = True
                probation = "; on probation now" if self.state.nodes[node].conduct.quarantined else ""
                yield from self._free(node, f"{name} has too few nodes without it{probation}")
        return released

    # The healer's orders.

    @on(HealingOrdered)
    def heed_order(self, event: HealingOrdered, now: float) -> Effects:
        """What of it is the selector's: never at the price of a job that then had too few nodes, nor against a person."""
        record = self.state.nodes.get(event.node)
        jobs = [job for name, job in self.state.jobs.items() if event.job in (None, name) and event.node in job.members]
        if record is None or event.node in self.state.forced:
            return
        done = ""
        match event.remedy:
            case "retry":
                for job in jobs:
                    member = job.members[event.node]
                    member.failed = member.failed if member.refused else ""
                done = f"{event.node} is tried once more"
            case "demote" if record.alive:
                record.demoted = True
                done = f"{event.node} reduces nothing for {event.seconds:.0f} s"
            case "move" if self._spared(event.node, jobs) and not held_by(record, None):
                words = f"kept out for {event.seconds:.0f} s by the healer: {event.reason}"
                if event.job is None:
                    record.drained = words
                for job in jobs if event.job is not None else ():
                    job.members[event.node].moved = words
                done = f"{event.node} is kept out for {event.seconds:.0f} s"
            case "quarantine" if not record.conduct.quarantined and self._spared(event.node, jobs):
                yield from self._confine(event.node, event.reason, now)
                done = f"{event.node} is in quarantine"
        if not done:
            return
        if event.remedy in ("demote", "move"):
            hold = Hold(event.node, event.job or "", event.remedy, now + event.seconds)
            self.state.holds[_name_of(hold)] = hold
            yield self.set_timer(HoldOver(hold=_name_of(hold)), hold.until)
        yield from self._change(now, f"{done}: {event.reason}", event.job)

    @on(HoldOver)
    def end_hold(self, timer: HoldOver, now: float) -> Effects:
        """Its time is over."""
        hold = self.state.holds.get(timer.hold)
        if hold is None:
            return
        if now < hold.until:
            yield self.set_timer(timer, hold.until)
            return
        del self.state.holds[timer.hold]
        record, job = self.state.nodes.get(hold.node), self.state.jobs.get(hold.job)
        if record is None:
            return
        if hold.remedy == "demote":
            record.demoted = False
            return  # at the next choice of reducers
        member = job.members.get(hold.node) if job is not None else None
        if not hold.job:
            held, record.drained = bool(record.drained), ""
        else:
            held = member is not None and bool(member.moved)
        if member is not None:
            member.moved = ""
        if held:
            yield from self._change(now, f"{hold.node} may take part again", hold.job or None)

    @abstractmethod
    def _change(self, now: float, because: str, job: JobId | None) -> Effects:
        """Give a job, or all, the roster it should have now, reducers included."""

    def _confine(self, node: NodeId, why: str, now: float) -> Effects:
        """Begin a quarantine; the rosters are to follow."""
        record = self.state.nodes[node]
        failures = max(round(record.conduct.strikes), 1)
        seconds = conduct.confine(record.conduct, now, why, self.settings)
        yield self.publish(NodeQuarantined(node=node, seconds=seconds, failures=failures, reason=why))
        yield self.set_timer(QuarantineOver(node=node), record.conduct.until)

    def _spared(self, node: NodeId, jobs: list[Job]) -> bool:
        return all(self._can_spare(job, node) for job in jobs)


def _name_of(hold: Hold) -> str:
    return f"{hold.remedy}/{hold.node}/{hold.job}"

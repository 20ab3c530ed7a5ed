"""The part of the node selector that says who is alive: heartbeats, goodbyes, and the deadline of each node's silence."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from agents.base import Agent, Effect, Effects, Probe, SetTimer, Timer, on
from agents.inputs import ProbeReturned, Woken
from agents.node_selector import conduct, liveness
from agents.node_selector.fleet_shares import describe, pace
from agents.node_selector.roster import few
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import NodeRecord, NodeSelectorState
from schemas.decisions import NodeJoined, NodeLost
from schemas.health import DetectorWatching, NodeHealth
from schemas.ids import NodeId, incarnation_of, is_older
from schemas.jobs import JobPhase
from schemas.nodes import NodeHeartbeat, NodeLeaving, NodeMended, NodeProfile, NodeYielding


class Silence(Timer, frozen=True, kw_only=True):
    """A node's deadline: nothing was heard of it for five intervals."""

    node: NodeId


class Settle(Timer, frozen=True, kw_only=True):
    """The nodes that joined a moment ago get into the rosters together."""


class QuarantineOver(Timer, frozen=True, kw_only=True):
    """A node's quarantine ends."""

    node: NodeId


class Fleet(Agent[NodeSelectorState]):
    """Owner of liveness. What a change means for the jobs is up to `_review`."""

    name: ClassVar[str] = "node_selector"
    settings: NodeSelectorSettings

    @abstractmethod
    def _review(self, now: float, because: str, *, reasons: bool = True) -> Effects:
        """Give every job the roster it should have now; `reasons`: also if only the nodes that are out differ."""

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """It was deaf itself: silences count from now, and every deadline is set again."""
        self.state.hearing_since, self.state.answers = now, 0
        for node, record in self.state.nodes.items():
            if record.alive:
                yield self._allow(node, record, now)
            if record.conduct.quarantined:
                yield self.set_timer(QuarantineOver(node=node), max(record.conduct.until, now))
        if self.state.joined:
            yield self.set_timer(Settle(), now + self.settings.settle_seconds)

    @on(NodeProfile)
    def meet(self, event: NodeProfile, now: float) -> Effects:
        """A profile says that a node exists; only heartbeats say that it lives. A new life yields to nobody as yet, and may
        have been told whom to trust."""
        record = self._record(event.node)
        if event.version > record.yield_version:
            describe(record, event)
            yield from self._forgive_refusals(event.node, "it has come up again", now)
            yield from self._follow_yield(event.node, record, event.version, "", "it has come up again", now)

    @on(NodeYielding)
    def give_way(self, event: NodeYielding, now: float) -> Effects:
        """A node's owner needs it, or no longer: out of all rosters at once, and back. That is nobody's failure. A node
        that leaves jobs a part of its speed stays in."""
        record = self._record(event.node)
        if event.version > record.yield_version:
            pace(self.state, event.node, event.share if event.yielding and event.share > 0 else 1.0)
            yielding = event.reason if event.yielding and not event.share else ""
            yield from self._follow_yield(event.node, record, event.version, yielding, event.reason, now)

    @on(NodeMended)
    def welcome_back(self, event: NodeMended, now: float) -> Effects:
        """Its owner has put something right."""
        yield from self._forgive_refusals(event.node, event.reason, now)

    def _forgive_refusals(self, node: NodeId, why: str, now: float) -> Effects:
        """Jobs whose code a node didn't take are tried there again; whatever else they failed of still stands."""
        refused = [member for job in self.state.jobs.values() if (member := job.members.get(node)) and member.refused]
        for member in refused:
            member.refused, member.failed = False, ""
        if refused:
            yield from self._review(now, f"{node}: {why}")

    def _follow_yield(self, node: NodeId, record: NodeRecord, version: int, yielding: str, why: str, now: float) -> Effects:
        record.yield_version = version
        if yielding == record.yielding:
            return
        record.yielding = yielding
        if yielding:
            self._count_processes_out(node)
        yield from self._review(now, f"{node}: {why}")

    @on(NodeHeartbeat)
    def hear(self, event: NodeHeartbeat, now: float) -> Iterator[Effect]:
        """A sign of life moves the node's deadline; a first one makes it a member of the fleet."""
        record = self._record(event.node)
        life = incarnation_of(event.id)
        if life and life == record.left:
            return  # overtaken by its own goodbye
        record.beat, record.condemned = event.sequence, ""
        absent = max(now - record.heard_at, 0.0) if record.ever else 0.0
        record.interval = liveness.bounded_interval(event.interval, self.settings)
        record.life = life
        liveness.note_hearing(self.state, record, now, self.settings)
        record.due, record.last = now + liveness.silence_limit(record, self.settings), self._cause
        if record.alive and record.watched <= record.due:
            return  # the timer that is set looks again: moving one with every heartbeat would cost more than all else here
        yield self._watch(event.node, record)
        if record.alive:
            return
        returned, record.ever, record.alive, record.gone = record.ever, True, True, ""
        words = f"heartbeats are back after {absent:.1f} s" if returned else "its heartbeats began"
        yield self.publish(NodeJoined(node=event.node, returned=returned, absent_seconds=absent, reason=words))
        if not self.state.joined:
            yield self.set_timer(Settle(), now + self.settings.settle_seconds)
        self.state.joined.append(event.node)

    @on(Settle)
    def settle(self, timer: Settle, now: float) -> Effects:
        """Everybody who joined gets into the rosters at once."""
        joined, self.state.joined = self.state.joined, []
        if joined:
            yield from self._review(now, f"joined: {few(joined)}")

    @on(NodeLeaving)
    def see_off(self, event: NodeLeaving, now: float) -> Effects:
        """A goodbye is a death without the wait, unless the node has begun another life since."""
        record = self._record(event.node)
        life = incarnation_of(event.id)
        if is_older(life, record.life):
            return
        record.left = life
        if record.alive:
            yield from self._bury(event.node, now, f"it said goodbye: {event.reason}")

    @on(Silence)
    def doubt(self, timer: Silence, now: float) -> Effects:
        """A deadline has passed in silence."""
        record = self.state.nodes.get(timer.node)
        if record is None or not record.alive:
            return
        if record.watched < record.due:  # it has spoken since
            yield self._watch(timer.node, record)
            return
        if liveness.watched(self.state, now, self.settings):
            later = liveness.wait_for_word(record, now, self.settings)
            if later is None:
                yield from self._die(timer.node, now, record.condemned or f"no heartbeat for {now - record.heard_at:.1f} s")
            else:
                record.due = record.watched = later
                yield self.set_timer(timer, later)
            return
        again = liveness.look_again(self.state, record, now, self.settings)
        if again is not None:
            record.due = record.watched = again
            yield self.set_timer(timer, again)
            if liveness.should_probe(self.state, now, self.settings):
                self.state.probes, self.state.probed_at = self.state.probes + 1, now
                yield Probe(sequence=self.state.probes, timeout=self.settings.probe_timeout_seconds)
            return
        yield from self._die(timer.node, now, f"no heartbeat for {now - record.heard_at:.1f} s")

    @on(DetectorWatching)
    def note_detector(self, event: DetectorWatching, now: float) -> None:
        """There is a failure detector, and it hears well: silences are its business."""
        self.state.detector_at = now if event.hears else None

    @on(NodeHealth)
    def heed_verdict(self, event: NodeHealth, now: float) -> Effects:
        """The failure detector's word on a node. A death counts at once, unless a later heartbeat was heard here; it waits
        where no detector lives: then it is an old word, and the node has its time."""
        record = self.state.nodes.get(event.node)
        if record is None or event.version <= record.health_version:
            return
        record.health_version = event.version
        later = record.beat > event.beat if event.life == record.life else is_older(event.life, record.life)
        record.condemned = event.reason if event.state == "dead" and not later else ""
        if record.condemned and record.alive and liveness.watched(self.state, now, self.settings):
            yield from self._die(event.node, now, event.reason)

    @on(ProbeReturned)
    def trust_ears(self, event: ProbeReturned, now: float) -> None:
        """Whether the server can be heard, where no node is."""
        if event.sequence == self.state.probes:
            liveness.note_answer(self.state, event.rtt is not None)

    def _die(self, node: NodeId, now: float, why: str) -> Effects:
        """A death without a goodbye: a failure, where a job relied on the node."""
        record = self.state.nodes[node]
        if any(node in job.nodes and job.phase is JobPhase.RUNNING for job in self.state.jobs.values()):
            conduct.fail(record.conduct, self.settings, strike=0)
        yield from self._bury(node, now, why)

    def _bury(self, node: NodeId, now: float, why: str) -> Effects:
        record = self.state.nodes[node]
        record.alive, record.gone = False, f"lost: {why}"
        self._count_processes_out(node)
        if node in self.state.joined:
            self.state.joined.remove(node)
        yield self.publish(NodeLost(node=node, silent_seconds=max(now - record.heard_at, 0.0), reason=why))
        if self._is_missed(node):
            yield from self._review(now, f"{node} was lost: {why}", reasons=False)

    def _is_missed(self, node: NodeId) -> bool:
        """Whether a node's death may change a roster. That of one that a job alone in the fleet has no use for doesn't, and
        a look at everybody for each of a hundred that die together would take seconds where there are thousands."""
        jobs = list(self.state.jobs.values())
        return len(jobs) > 1 or any(node in job.nodes or len(job.nodes) < max(1, job.request.min_nodes) for job in jobs)

    def _count_processes_out(self, node: NodeId) -> None:
        """Its job processes end: none of them can reduce."""
        for job in self.state.jobs.values():
            if node in job.members:
                job.members[node].ready = False

    def _presume(self, node: NodeId, now: float) -> Effects:
        """A node of a roster that an earlier life of the selector published: alive until its silence says otherwise."""
        record = self._record(node)
        if not record.ever:
            record.alive, record.ever, record.gone, record.heard_at = True, True, "", now
            yield self._allow(node, record, now)

    def _allow(self, node: NodeId, record: NodeRecord, now: float) -> SetTimer:
        """A node has all of its time from now on."""
        record.due, record.last = now + liveness.silence_limit(record, self.settings), self._cause
        return self._watch(node, record)

    def _watch(self, node: NodeId, record: NodeRecord) -> SetTimer:
        """Look at its deadline; what comes of it was caused by the last that was heard of it."""
        record.watched = record.due
        return SetTimer(timer=Silence(node=node), at=record.due, cause=record.last)

    def _record(self, node: NodeId) -> NodeRecord:
        """The record of a node; where there are too many, the longest dead gives way."""
        nodes = self.state.nodes
        if node not in nodes:
            dead = [name for name, record in nodes.items() if not record.alive] if self._crowded() else []
            if dead:
                oldest = min(dead, key=lambda name: nodes[name].heard_at)
                del nodes[oldest]
                for job in self.state.jobs.values():
                    job.members.pop(oldest, None)
            nodes[node] = NodeRecord()
        return nodes[node]

    def _crowded(self) -> bool:
        return len(self.state.nodes) >= self.settings.nodes_kept

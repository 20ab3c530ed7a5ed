"""What the batch controller does on which event."""

from agents.base import Effects, on
from agents.batch_controller import deadlines, inside, learning, noise, transfers, words
from agents.batch_controller.deciding import Decider, drifted
from agents.batch_controller.foresight import remembered
from agents.batch_controller.invariants import faults
from agents.batch_controller.links import BYTES
from agents.batch_controller.state import (
    LONG_AGO,
    Job,
    Kept,
    Known,
    Node,
    Reconsider,
    Settled,
)
from agents.batch_controller.yielding import left_to_jobs, turn_to
from agents.inputs import Woken
from schemas.decisions import NodeLost
from schemas.healing import HealingOrdered
from schemas.ids import NodeId
from schemas.jobs import JobState
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeProfile, NodeYielding, WorkFailed
from schemas.sites import SitePaced, SiteParted
from schemas.training import (
    Assignment,
    ContributionReceived,
    Roster,
    RoundClosed,
    RoundOpened,
    Share,
    StepTimed,
    TrainerReady,
    TransferTimed,
    Tuning,
)

OVERHEAD_GAIN = 0.3
"""Of what a round takes beyond its slowest node's time, and of the pause after it: the last three or four rounds decide."""


GRADES = tuple(LinkQuality)
"""Best first."""


class BatchController(Decider):
    """Owner of every job's `Assignment`: who does how much, how it travels, and how long a round may take.

    A job's assignment is a standing document; a new version comes only if shares differ by enough to matter, and says
    what changes for whom and why. A controller without memory adopts the one it finds.
    """

    # Jobs

    @on(JobState)
    def follow_job(self, event: JobState, now: float) -> Effects:
        """A job was accepted, goes on, or is over."""
        if event.job in self.state.ended:
            return
        if event.state.ended:
            self.state.jobs.pop(event.job, None)
            self.state.ended[event.job] = None
            while len(self.state.ended) > self.settings.jobs_kept:
                del self.state.ended[next(iter(self.state.ended))]
            return
        job = self._job(event.job)
        if event.version <= job.state_version:
            return
        job.state_version = event.version
        job.round = max(job.round, event.round)
        if job.request is None:
            job.request = event.request
            yield from self._look(job, now)

    @on(Roster)
    def follow_roster(self, event: Roster, now: float) -> Effects:
        """Who takes part."""
        if event.job in self.state.ended:
            return
        job = self._job(event.job)
        if event.version <= job.roster_version:
            return
        job.roster_version = event.version
        job.roster = event.nodes
        job.quorum = event.quorum
        for node in [node for node in job.nodes if node not in event.nodes][: -self.settings.nodes_kept]:
            del job.nodes[node]
        yield from self._look(job, now, event.reason)

    @on(Tuning)
    def follow_tuning(self, event: Tuning, now: float) -> Effects:
        """What the optimizer allows from now on, and which assignment it wants back."""
        if event.job in self.state.ended:
            return
        job = self._job(event.job)
        if event.version <= job.tuning_version:
            return
        job.tuning_version = event.version
        job.policy, job.adapt, job.max_factor = event.policy, event.adapt, max(1.0, event.max_factor)
        job.foreseen = event.foreseen
        before, job.before = job.before, (job.before or remembered(job)) if event.ahead else None
        if before is not None and job.before is None:
            yield from self._as_before(job, before, event.reason)
        if event.rollback_to is not None:
            yield from self._roll_back(job, event.rollback_to, event.reason)
        else:
            yield from self._look(job, now, event.reason)

    @on(Assignment)
    def adopt(self, event: Assignment, now: float) -> Effects:
        """What is published holds: an earlier life of this controller knew more. (Its own words are no news.)"""
        if event.job in self.state.ended:
            return
        job = self._job(event.job)
        if job.current is None or event.version > job.current.version:
            kept = Kept(
                version=event.version,
                roster_version=event.roster_version,
                shares=dict(event.shares),
                average_encoding=event.average_encoding,
                round_seconds=event.round_seconds,
                deadline_seconds=event.deadline_seconds,
                target=event.round_seconds if event.length == 0 else 0.0,
                length=event.length or 0,
            )
            self._keep(job, kept)
            yield from self._look(job, now)

    # Nodes

    @on(NodeProfile)
    def learn_profile(self, event: NodeProfile, now: float) -> Effects:
        """A node has come up, and yields to nobody as yet. If it says something else of itself than before, what was
        measured is void."""
        node = self._node(event.node)
        if event.version <= node.profile_version:
            return
        described = (event.slowdown, event.step_time_ms / 1e3, bool(event.accelerators))
        another = node.profile_version > 0 and described != (node.slowdown, node.step_time, node.accelerated)
        node.profile_version = event.version
        node.slowdown, node.step_time, node.accelerated = described
        if another:
            for job in self.state.jobs.values():
                if event.node in job.nodes:
                    job.nodes[event.node].steps = {}
        if event.version > node.yield_version:
            yield from self._turn_to(event.node, 1.0, "its node has come up again", now)

    @on(NodeYielding)
    def follow_yielding(self, event: NodeYielding, now: float) -> Effects:
        """A node computes for a part of the time from now on, or for all of it again: its share follows at once."""
        node = self._node(event.node)
        if event.version > node.yield_version:
            node.yield_version = event.version
            yield from self._turn_to(event.node, left_to_jobs(event), event.reason, now)

    def _turn_to(self, name: NodeId, share: float, why: str, now: float) -> Effects:
        jobs = [job for _, job in sorted(self.state.jobs.items()) if name in job.nodes]
        if turn_to(self._node(name), [job.nodes[name] for job in jobs], share, why):
            for job in jobs:
                yield from self._reconsider(job, now)

    @on(LinkQualityChanged)
    def react_to_link(self, event: LinkQualityChanged, now: float) -> Effects:
        """A link has another grade: react at once to a worse one. A silent link says nothing about its speed."""
        node = self._node(event.node)
        if event.version <= node.link_version:
            return
        node.link_version = event.version
        if event.quality is LinkQuality.OFFLINE:
            return
        was, node.quality, node.latency_ms = node.quality, event.quality, event.latency_ms
        for _, job in sorted(self.state.jobs.items()):
            if event.node in job.roster:
                known = self._known(job, event.node)
                known.regraded = known.regraded or was is not None
                deadlines.another_link(known)
                if was is not None and GRADES.index(event.quality) > GRADES.index(was):
                    known.changed, known.rose, known.turns = LONG_AGO, None, 0  # bad news doesn't wait for a cooldown
                change = f"{was.value} -> {event.quality.value}" if was is not None else event.quality.value
                known.news = f"link {change} ({event.latency_ms:.0f} ms, loss {100 * event.loss:.0f} %)"
                yield from self._reconsider(job, now)

    @on(SitePaced)
    def heed_site(self, event: SitePaced, now: float) -> None:
        """Where nodes average in the midst of rounds, rounds may be longer."""
        job = self.state.jobs.get(event.job)
        if job is not None:
            job.inside = inside.heard(event)

    @on(SiteParted)
    def heed_parting(self, event: SiteParted, now: float) -> None:
        """They don't any more, until they say so."""
        job = self.state.jobs.get(event.job)
        if job is not None and job.inside is not None and event.round == 0 and event.epoch == job.inside.epoch:
            job.inside = None

    @on(NodeLost)
    def forget_link(self, event: NodeLost, now: float) -> None:
        """A node that comes back may do so over another link; its machine is the same."""
        for job in self.state.jobs.values():
            known = job.nodes.get(event.node)
            if known is not None:
                known.up, known.down, known.misses, known.arrivals = {}, {}, 0, []

    @on(WorkFailed)
    def mind_memory(self, event: WorkFailed, now: float) -> Effects:
        """A microbatch that didn't fit a node's memory is halved, and stays under that."""
        job = self.state.jobs.get(event.job)
        if job is None or job.current is None or event.kind != "out_of_memory" or event.node not in job.current.shares:
            return
        yield from self._halve(job, event.node, "{} samples a step didn't fit its memory", now)

    @on(HealingOrdered)
    def shrink(self, event: HealingOrdered, now: float) -> Effects:
        """So is one that the healer takes for too large."""
        for name, job in sorted(self.state.jobs.items()):
            ours = event.remedy == "shrink" and event.job in (None, name)
            if ours and job.current is not None and event.node in job.current.shares:
                yield from self._halve(job, event.node, "{} samples a step are too many, says the healer", now)

    def _halve(self, job: Job, node: NodeId, why: str, now: float) -> Effects:
        assert job.current is not None
        size = job.current.shares[node].microbatch
        low = job.request.microbatch_min if job.request is not None else 1
        if size // 2 >= low:
            known = self._known(job, node)
            known.ceiling, known.news = size // 2, why.format(size)
            yield from self._look(job, now)

    # Measurements

    @on(TrainerReady)
    def learn_size(self, event: TrainerReady, now: float) -> Effects:
        """How large the model is."""
        job = self.state.jobs.get(event.job)
        if job is not None and event.parameters != job.parameters:
            job.parameters = event.parameters
            yield from self._reconsider(job, now)

    @on(StepTimed)
    def learn_steps(self, event: StepTimed, now: float) -> Effects:
        """How long a node's steps take."""
        job = self.state.jobs.get(event.job)
        if job is None or event.node not in job.roster or event.steps < 1 or event.seconds <= 0:
            return
        known = self._known(job, event.node)
        first = not known.steps
        learning.observe_steps(known, event.microbatch, event.seconds / event.steps)
        share = job.current.shares.get(event.node) if job.current is not None else None
        measured = learning.step_seconds(known, share.microbatch) if share is not None else None
        if measured is not None and drifted(measured, known.planned_step, self.settings.drift):
            was = f", not {words.seconds(known.planned_step)}" if not first else ""
            known.news = f"a step takes {words.seconds(measured)}{was}"
            yield from self._reconsider(job, now)

    @on(RoundOpened)
    def note_opening(self, event: RoundOpened, now: float) -> None:
        """A round is open: from now on its contributions are on their way."""
        job = self.state.jobs.get(event.job)
        if job is None:
            return
        if event.round == job.closed + 1 and event.round not in job.openings and job.closed_at is not None:
            job.pause += OVERHEAD_GAIN * (min(now - job.closed_at, self.settings.deadline_floor) - job.pause)
        job.reducing = tuple(dict.fromkeys(event.shards))
        deadlines.open_round(job, event, now)

    @on(ContributionReceived)
    def learn_upload(self, event: ContributionReceived, now: float) -> Effects:
        """When a node's difference is there, and what its link carries upwards; a reducer's own doesn't travel."""
        job = self.state.jobs.get(event.job)
        share = job.current.shares.get(event.contributor) if job is not None and job.current is not None else None
        if job is None or share is None:
            return
        known, node = self._known(job, event.contributor), self._node(event.contributor)
        deadlines.arrive(job, known, event, share, now, self.settings.deadline_history)
        job.arrived_at = now
        known.reduces = event.contributor == event.node and not event.carried
        if not event.carried:
            return
        if not job.parameters:
            fragments = (job.request.fragments if job.request is not None else None) or 1
            job.parameters = round(event.size / BYTES[share.encoding]) * fragments
        transfers.observe(known.up, event.carried, event.seconds, share.streams, node)
        yield from self._weigh_transfers(job, event.contributor, known, share, node, now)

    @on(TransferTimed)
    def learn_download(self, event: TransferTimed, now: float) -> Effects:
        """What a node's link carries downwards."""
        job = self.state.jobs.get(event.job)
        share = job.current.shares.get(event.node) if job is not None and job.current is not None else None
        if job is None or share is None or event.direction != "down":
            return
        known, node = self._known(job, event.node), self._node(event.node)
        transfers.observe(known.down, event.bytes, event.seconds, max(1, event.streams), node)
        yield from self._weigh_transfers(job, event.node, known, share, node, now)

    def _weigh_transfers(self, job: Job, name: NodeId, known: Known, share: Share, node: Node, now: float) -> Effects:
        """Look again if transfers take another part of the round than planned."""
        if job.current is None:
            return
        size = job.exchanged
        up = transfers.seconds_for(known.up, size * BYTES[share.encoding], share, node)
        down = transfers.seconds_for(known.down, size * BYTES[job.current.average_encoding], share, node)
        off = abs(up + down - known.planned_transfer)
        if off > (self.settings.drift - 1) * max(job.current.round_seconds, known.planned_transfer):
            was = f", not {words.seconds(known.planned_transfer)}" if known.planned_transfer else ""
            known.news = f"transfers take {words.seconds(up + down)}{was}"
            yield from self._reconsider(job, now)

    @on(RoundClosed)
    def learn_round(self, event: RoundClosed, now: float) -> Effects:
        """A round is over: who was late, what it took, and time to look at everybody's share."""
        job = self.state.jobs.get(event.job)
        if job is None or event.round <= job.closed:
            return
        if job.arrived_at is not None:
            job.closing += OVERHEAD_GAIN * (min(now - job.arrived_at, self.settings.deadline_floor) - job.closing)
        job.closed, job.closed_at, job.arrived_at = event.round, now, None
        noise.observe(job.spread, event)
        job.round = max(job.round, event.round)
        for node in event.missing:
            if node in job.roster:
                known = self._known(job, node)
                known.misses = min(known.misses + 1, self.settings.misses_counted)
                known.news = known.news or f"missed {known.misses} deadline{'s' if known.misses > 1 else ''} in a row"
                share = job.current.shares.get(node) if job.current is not None else None
                if share is not None:
                    deadlines.miss(job, known, event, share, self.settings.deadline_history)
        for part in event.contributions:
            known = self._known(job, part.node)
            if part.late == 0 and known.misses:
                known.misses -= 1
                known.news = known.news or "in time again"
        if event.on_time and job.current is not None:
            alone = job.current.round_seconds - job.current.overhead
            beyond = min(max(0.0, event.seconds - alone), 2 * alone + self.settings.deadline_floor)
            job.overhead += OVERHEAD_GAIN * (beyond - job.overhead)
        yield from self._look(job, now)

    # Restarts

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """Without memory, first hear what is in force; with it, go on with what was waiting."""
        if not event.resumed:
            self.state.silent_until = now + self.settings.settle
            yield self.set_timer(Settled(), self.state.silent_until)
        for _, job in sorted(self.state.jobs.items()):
            if job.reconsider:
                yield self.set_timer(Reconsider(job=job.job), now + self.settings.coalesce)

    @on(Settled)
    def speak(self, timer: Settled, now: float) -> Effects:
        """Everything in force has been heard."""
        self.state.silent_until = 0.0
        for _, job in sorted(self.state.jobs.items()):
            yield from self._look(job, now)

    def check(self) -> None:
        """Raises `BrokenInvariant` unless shares are within bounds, for the roster's nodes, and everything is bounded."""
        wrong = faults(self.state, self.settings)
        self.require(not wrong, "; ".join(wrong))

"""The node selector: who takes part in which job, who reduces, and who has to sit out."""

import random
from typing import TypeVar

import msgspec

from agents.base import Effects, on
from agents.node_selector import conduct
from agents.node_selector.fleet_shares import share_out, speed_alone
from agents.node_selector.holding import Holding
from agents.node_selector.invariants import broken, may_break
from agents.node_selector.observe import close_round, learn_steps, learn_upload
from agents.node_selector.roster import adopt, count_low_rounds, draw_up, entitled, led_badly, reason_of, rights
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import Force, Job, Member, NodeSelectorState
from schemas.anchors import DigestMismatch
from schemas.decisions import ForceNode
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase, JobState
from schemas.network import LinkQualityChanged
from schemas.nodes import WorkFailed, WorkStarted
from schemas.shards import pieces_of
from schemas.training import (
    ContributionReceived,
    ContributionRefused,
    Roster,
    RoundClosed,
    StepTimed,
    TrainerReady,
    TrainingProgress,
    Tuning,
)
from schemas.verification import ArithmeticDoubted

# Jobs that ended, rosters without a job, and words on nodes that are kept: more than a day's jobs of a busy fleet, and
# a bound on what a stranger's messages can make the selector remember.
KEPT = 256

V = TypeVar("V")


class NodeSelector(Holding):
    """Owner of every job's `Roster`, of quarantines (`NodeQuarantined`, `NodeReleased`), and, as `Fleet`, of liveness.

    Life, death, failure and a person's word change a roster at once. Choice (scores, turns, the order of reducers) does so
    only as rounds close, once in a few rounds, and where the job's `Tuning` allows it; the first order of reducers also as
    links become known.
    """

    def __init__(self, settings: NodeSelectorSettings, rng: random.Random, state: NodeSelectorState | None = None) -> None:
        super().__init__(state if state is not None else NodeSelectorState(), rng)
        self.settings = settings

    # Jobs

    @on(JobState)
    def follow(self, event: JobState, now: float) -> Effects:
        """A job that is queued gets a roster once there are enough nodes; one that ended is forgotten."""
        jobs = self.state.jobs
        if event.job in self.state.ended:
            return
        if event.state.ended:
            known = jobs.pop(event.job, None)
            self.state.unclaimed.pop(event.job, None)
            _keep(self.state.ended, event.job, event.version)
            if known is not None:
                yield from self._review(now, f"{event.job} has ended")
            return
        job = jobs.get(event.job)
        if job is not None:
            if event.version > job.state_version:
                over = event.state is JobPhase.FINISHING and job.phase is not JobPhase.FINISHING
                job.state_version, job.phase, job.request = event.version, event.state, event.request
                if over and len(jobs) > 1:
                    yield from self._review(now, f"{event.job} has closed its last round")
            return
        job = Job(request=event.request, phase=event.state, state_version=event.version, round=event.round)
        job.adapt = event.request.adaptation != "off"
        job.chose_at = event.round
        jobs[event.job] = job
        earlier = self.state.unclaimed.pop(event.job, None)
        if earlier is not None:
            yield from self._take_over(job, earlier, now)
            yield from self._review(now, f"goes on from version {earlier.version}")
        else:
            yield from self._review(now, "the job was accepted", only=event.job)

    @on(Roster)
    def recall(self, event: Roster, now: float) -> Effects:
        """Its own roster, told by the stream: news only to a selector that lost its memory, which then goes on from it."""
        job = self.state.jobs.get(event.job)
        if job is None:
            if event.job not in self.state.ended:
                _keep(self.state.unclaimed, event.job, event)
            return
        same = (event.nodes, event.reducers) == (job.nodes, job.reducers)
        if event.version < job.version or (event.version == job.version and same):
            return
        spoken = job.version > 0
        yield from self._take_over(job, event, now)
        words = f"goes on from version {event.version}"
        if spoken:  # what was said since has a lower version: whoever starts late would keep to that
            yield from self._redraw(event.job, job, words, anew=True)
        yield from self._review(now, words)

    def _take_over(self, job: Job, roster: Roster, now: float) -> Effects:
        for node in roster.nodes:
            yield from self._presume(node, now)
            job.members.setdefault(node, Member())
        job.version, job.nodes, job.reducers, job.helpers = roster.version, roster.nodes, roster.reducers, roster.helpers
        job.quorum, job.excluded, job.sites = roster.quorum, roster.excluded, roster.sites

    @on(Tuning)
    def heed(self, event: Tuning, now: float) -> None:
        """Whether choices are allowed now."""
        job = self.state.jobs.get(event.job)
        if job is not None and event.version > job.tuning_version:
            job.tuning_version, job.adapt = event.version, event.adapt

    # What nodes do

    @on(LinkQualityChanged)
    def learn_link(self, event: LinkQualityChanged, now: float) -> Effects:
        """A link's score; it counts at the next choice. Who reduces first may still change until a process is ready."""
        record = self._record(event.node)
        if event.version <= record.link_version:
            return
        record.link_version, record.quality = event.version, event.quality
        record.link = min(max(event.score, 0.0), 100.0)
        for name, job in self.state.jobs.items():
            begun = job.round > 0 or any(member.ready for member in job.members.values())
            if job.version > 0 and event.node in job.nodes and not begun:
                yield from self._redraw(name, job, "before the first round", reasons=False, reorder=True)

    @on(StepTimed)
    def learn_speed(self, event: StepTimed, now: float) -> None:
        """Seconds of computing."""
        member = self._member(event.job, event.node)
        if member is not None:
            learn_steps(member, event, self.settings, lambda speed: speed_alone(self.state, event.node, speed))

    @on(ContributionReceived)
    def learn_line(self, event: ContributionReceived, now: float) -> None:
        """How much a node's line carries, which its round trips don't tell; it counts at the next choice of reducers."""
        record = self.state.nodes.get(event.contributor)
        if record is not None:
            learn_upload(record, event, self.settings)

    @on(TrainingProgress)
    def learn_progress(self, event: TrainingProgress, now: float) -> None:
        """A node that works or sends is slow at worst."""
        member = self._member(event.job, event.node)
        if member is not None and event.doing != "waiting":
            member.busy = True

    @on(WorkStarted)
    def await_process(self, event: WorkStarted, now: float) -> Effects:
        """A job process that was just started can't reduce yet."""
        member = self._member(event.job, event.node)
        if member is not None:
            member.ready = member.begun = False
            yield from self._regroup(event.job, event.node, "its process begins anew")

    @on(TrainerReady)
    def note_ready(self, event: TrainerReady, now: float) -> Effects:
        """Rounds may expect the node now; and the size of the model says whether several nodes can reduce it."""
        member, job = self._member(event.job, event.node), self.state.jobs.get(event.job)
        if member is None or job is None:
            return
        member.ready = True
        cut, job.parameters = pieces_of(job.request, job.parameters), job.parameters or max(0, event.parameters)
        sized = pieces_of(job.request, job.parameters) != cut
        if job.version > 0 and (sized or self.state.nodes[event.node].site):
            yield from self._redraw(event.job, job, f"{event.node} is ready", reasons=False)

    @on(RoundClosed)
    def weigh_round(self, event: RoundClosed, now: float) -> Effects:
        """The occasion for judgements and choices."""
        job = self.state.jobs.get(event.job)
        if job is None or event.round <= job.round:
            return
        for node in close_round(self.state, job, event, self.settings):
            yield from self._judge(node, now, f"missed round {event.round} of {event.job}")
        count_low_rounds(self.state, job, self.settings, rights(self.state, job))
        free = job.adapt and job.round - job.chose_at >= self.settings.choice_every
        yield from self._review(
            now, "", only=event.job, choosing=free and job.phase is JobPhase.RUNNING, reorder=led_badly(self.state, job)
        )

    @on(WorkFailed)
    def hold_failure(self, event: WorkFailed, now: float) -> Effects:
        """A crash counts against the node; one that isn't tried again ends its part in the job.

        Before the job's first round nobody has shown that its code runs at all: then an exception is the workload's.
        """
        member, job = self._member(event.job, event.node), self.state.jobs.get(event.job)
        if member is None or job is None:
            return
        member.ready = False
        if not event.retry:
            member.failed = f"the job has failed on it for good: {event.reason}"
            member.refused = event.kind in ("bundle", "declined")
        if not member.refused and (job.round > 0 or event.kind not in ("import", "raised")):
            conduct.fail(self.state.nodes[event.node].conduct, self.settings)
            yield from self._judge(event.node, now, f"its process of {event.job} failed ({event.kind})")
        if not event.retry:
            why = f"{event.node}: {event.reason}" if member.refused else f"the job has failed on {event.node} for good"
            yield from self._review(now, why, only=event.job)
        yield from self._regroup(event.job, event.node, f"its process {event.kind}")

    def _regroup(self, name: JobId, node: NodeId, why: str) -> Effects:
        """A node of a site that isn't ready any more: the others average without it."""
        if any(node in nodes for nodes in self.state.jobs[name].sites):
            yield from self._redraw(name, self.state.jobs[name], f"{node}: {why}", reasons=False)

    @on(ContributionRefused)
    def hold_refusal(self, event: ContributionRefused, now: float) -> Effects:
        """A contribution that can't be counted is a failure, once a round; not a late one: its round has counted it so."""
        if not event.late:
            yield from self._hold(event.job, event.contributor, event.round, now, f"refused: {event.reason}")

    @on(DigestMismatch)
    def hold_mismatch(self, event: DigestMismatch, now: float) -> Effects:
        """So is an anchor with other bits."""
        yield from self._hold(event.job, event.suspect, event.version + 1, now, "its anchor differs from the others'")

    @on(ArithmeticDoubted)
    def hold_arithmetic(self, event: ArithmeticDoubted, now: float) -> Effects:
        """So is a gradient that nobody else gets."""
        yield from self._hold(event.job, event.suspect, event.version + 1, now, "its arithmetic differs from the others'")

    def _hold(self, job: JobId, node: NodeId, round: int, now: float, why: str) -> Effects:
        member = self._member(job, node)
        if member is None or round <= member.refused_round:
            return
        member.refused_round = round
        conduct.fail(self.state.nodes[node].conduct, self.settings)
        yield from self._judge(node, now, f"round {round} of {job}: {why}")

    # Quarantine and force

    def _judge(self, node: NodeId, now: float, why: str) -> Effects:
        """After a failure: a quarantine, if it was one too many and every job of the node can spare it."""
        record = self.state.nodes[node]
        forced = node in self.state.forced
        if not record.alive or forced or not conduct.deserves_quarantine(record.conduct, self.settings):
            return
        if not all(self._can_spare(job, node) for job in self.state.jobs.values()):
            return
        again = "on probation" if record.conduct.probation > 0 else f"{record.conduct.strikes:g} strikes"
        words = f"{again}, the last: {why}"
        yield from self._confine(node, words, now)
        yield from self._review(now, f"{node} is in quarantine for {record.conduct.until - now:.0f} s: {words}")

    def _can_spare(self, job: Job, node: NodeId) -> bool:
        if node not in job.nodes or node in job.request.include:
            return True
        others = sum(right.eligible for other, right in entitled(self.state, job).items() if other != node)
        return others >= max(job.request.min_nodes, job.quorum)

    @on(ForceNode)
    def obey(self, event: ForceNode, now: float) -> Effects:
        """A person's word, which also gives a node that had failed for good another chance."""
        self.state.forced.pop(event.node, None)
        if event.do != "neither":
            _keep(self.state.forced, event.node, Force(event.do, event.reason))
        if event.do == "include":
            for job in self.state.jobs.values():
                if event.node in job.members:
                    job.members[event.node].failed = ""
        word = {"include": "forced in", "exclude": "forced out", "neither": "no longer forced"}[event.do]
        yield from self._review(now, f"{event.node} is {word}: {event.reason}")

    # Rosters

    def _review(
        self,
        now: float,
        because: str,
        *,
        reasons: bool = True,
        only: JobId | None = None,
        choosing: bool = False,
        reorder: bool = False,
    ) -> Effects:
        released = yield from self._release_needed()
        shared = share_out(self.state, self.settings, now)
        for name, job in self.state.jobs.items():
            if only is None or name == only or released or name in shared.changed:
                mine = name == only
                clauses = (because if mine or only is None else f"{only}: {because}" if because else "", shared.of(name))
                why = "; ".join(clause for clause in clauses if clause)
                yield from self._redraw(
                    name, job, why, reasons=reasons, choosing=choosing and mine, reorder=reorder and mine
                )
        left = share_out(self.state, self.settings, now, again=True)  # what a job hasn't taken, another may
        for name in [name for name in self.state.jobs if name in left.changed]:
            yield from self._redraw(name, self.state.jobs[name], left.of(name), reasons=reasons)

    def _change(self, now: float, because: str, job: JobId | None) -> Effects:
        yield from self._review(now, because, only=job, reorder=True)

    def _redraw(
        self,
        name: JobId,
        job: Job,
        because: str,
        *,
        reasons: bool = True,
        choosing: bool = False,
        reorder: bool = False,
        anew: bool = False,
    ) -> Effects:
        """A job's roster, if it is another now; `anew`: in any case."""
        fair = rights(self.state, job)
        present = sum(right.eligible for right in fair.values())
        if job.version == 0 and present < job.request.min_nodes:
            return
        draft = draw_up(self.state, job, self.settings, choosing=choosing, reorder=reorder, fair=fair)
        if job.version > 0 and not anew and not draft.differs_from(job, reasons=reasons):
            return
        moved = draft.differs_from(job, reasons=False)
        chosen = adopt(job, draft, self.settings, chosen_now=choosing and moved)
        reason = reason_of(draft, because, chosen, job.request.min_nodes)
        yield self.publish(
            Roster(
                job=name,
                version=job.version,
                nodes=job.nodes,
                reducers=job.reducers,
                quorum=job.quorum,
                helpers=job.helpers,
                sites=job.sites,
                excluded=job.excluded,
                reason=reason,
            )
        )

    def _member(self, job: JobId, node: NodeId) -> Member | None:
        """A node as a job sees it; None for a job or node that isn't known, which is no reason to remember it."""
        known = self.state.jobs.get(job)
        if known is None or node not in self.state.nodes:
            return None
        return known.members.setdefault(node, Member())

    def check(self) -> None:
        """Raises `BrokenInvariant` where a roster or the state is not what it must always be."""
        for what in broken(self.state, self.settings, KEPT):
            self.require(False, what)

    def check_after(self, event: msgspec.Struct) -> None:
        """`check`, where the input may have changed anything that it looks at."""
        if may_break(event, self.state):
            self.check()


def _keep(table: dict[str, V], key: str, value: V) -> None:
    """Put an entry in as the newest; the oldest gives way."""
    table.pop(key, None)
    table[key] = value
    if len(table) > KEPT:
        del table[next(iter(table))]

"""The reducer: opens a round, collects, closes it on quorum or deadline; the next of the list takes over a silent one's.

Every node of a job hosts this core. Only the active one acts; the others know what it knows. A round is closed by the one
`RoundClosed` that wins the compare-and-set on its subject, so that two who both think they are active do no harm.
"""

from collections.abc import Iterator

from agents.base import CancelTimer, Effect, Effects, StopWork, Timer, on
from agents.reducer import asynchronous, policy, sites, staleness, works
from agents.reducer.closing import HoldPatience, RoundDeadline
from agents.reducer.ordering import Ordering
from agents.reducer.state import KEPT_DIGESTS, key_of
from agents.reducer.verifying import Verifying
from schemas.anchors import CaughtUp, DigestMismatch
from schemas.decisions import NodeLost
from schemas.ids import NodeId
from schemas.jobs import JobState
from schemas.nodes import NodeLeaving, WorkEnded, WorkFailed
from schemas.training import (
    Assignment,
    AverageOffered,
    ContributionOffered,
    NodeRefused,
    Roster,
    RoundApplied,
    RoundClosed,
    RoundOpened,
    TrainerReady,
)


class TakeOver(Timer, frozen=True, kw_only=True):
    """The active reducer has been silent for longer than its deadline and this node's grace."""

    round: int


class StartPatience(Timer, frozen=True, kw_only=True):
    """The first round has waited long enough for all nodes to load the model."""


class Reducer(Verifying, Ordering):
    """Opens rounds, and takes over from a reducer that is silent or dead."""

    # What the fleet decides.

    @on(JobState)
    def follow_job(self, event: JobState, now: float) -> Effects:
        """The job's size and phase."""
        s = self.state
        s.phase, s.rounds, s.sync = event.state, event.rounds, event.request.sync
        s.aggregation, s.request = policy.averaging(event.request), event.request
        s.split()
        if s.over:
            yield from self._step_down()
        yield from self._maybe_open(now)

    @on(Roster)
    def follow_roster(self, event: Roster, now: float) -> Effects:
        """Who takes part, and who may reduce in which order."""
        s = self.state
        if s.roster is not None and event.version <= s.roster.version:
            return
        s.roster = event
        sites.remember(s, event)
        if not s.active and event.reducers:
            s.active = event.reducers[0]
            yield from self._stand_by(now, 2 * self.settings.start_patience_seconds)
        elif s.active and s.active not in event.nodes:
            yield from self._succeed(now, f"{s.active} is out of the roster: {event.reason}")
        if s.closed and s.active and s.active not in s.applied and s.node in s.applied:
            yield from self._succeed(now, f"{s.active} has no model yet")
        yield from self._maybe_open(now)
        yield from self._maybe_close(now)
        yield from self._maybe_announce(now)

    @on(Assignment)
    def follow_assignment(self, event: Assignment, now: float) -> Effects:
        """Deadline and encoding of the rounds to come, and who needn't be waited for in this one."""
        s = self.state
        if event.version > s.assignment_version:
            s.assignment_version = event.version
            s.deadline_seconds = event.deadline_seconds
            s.average_encoding = event.average_encoding
            staleness.heed_shares(s, event.shares)
            yield from self._maybe_close(now)

    # Who has which version of the anchor.

    @on(TrainerReady)
    def see_ready(self, event: TrainerReady, now: float) -> Effects:
        """A node has a model."""
        s = self.state
        s.applied[event.node] = max(event.version, 0)
        s.codes[event.node] = event.code
        asynchronous.arrive(s, event.node)
        if event.node in s.refused:
            s.refused.remove(event.node)  # it was started again: it may run the right code now
        if event.node == s.node:
            s.digests, s.parameters = {event.version: event.digest}, event.parameters
            s.split()
            s.ready_at = now
            yield self.set_timer(StartPatience(), now + self.settings.start_patience_seconds)
            if s.active != s.node:
                yield from self._stand_by(now, 2 * self.settings.start_patience_seconds)
            yield from self._serve_if_cut()
        else:
            self._forget_pieces_at(event.node)  # it is another process
        yield from self._refuse_strangers()
        yield from self._maybe_open(now)

    def _refuse_strangers(self) -> Iterator[Effect]:
        """Tell nodes that run other code than this reducer's, once each."""
        s = self.state
        if s.active != s.node:
            return
        for node in sorted(s.applied):
            if not s.agrees(node) and node not in s.refused:
                s.refused.append(node)
                reason = f"{node} runs other code than {s.node}: {policy.code_difference(s.codes[node], s.codes[s.node])}"
                yield self.publish(NodeRefused(job=s.job, node=s.node, suspect=node, reason=reason))

    @on(CaughtUp)
    def see_caught_up(self, event: CaughtUp, now: float) -> Effects:
        """A node that was behind is not any more."""
        self.state.applied[event.node] = event.version
        asynchronous.arrive(self.state, event.node, caught_up=True)
        yield from self._maybe_open(now)

    @on(RoundApplied)
    def see_applied(self, event: RoundApplied, now: float) -> Effects:
        """A node took an outer step: it is that far, and its digest must be ours."""
        s = self.state
        s.applied[event.node] = event.version
        if event.node == s.node:
            s.digests[event.version] = event.digest
            for old in sorted(s.digests)[:-KEPT_DIGESTS]:
                del s.digests[old]
            for node in sorted(s.claims):
                yield from self._compare(node)
        else:
            s.claims[event.node] = (event.version, event.digest)
            yield from self._compare(event.node)
        yield from self._maybe_open(now)

    def _compare(self, node: NodeId) -> Iterator[Effect]:
        """Name a node whose anchor differs from this reducer's at the same version, once a version."""
        s = self.state
        version, digest = s.claims[node]
        own = s.digests.get(version, digest)
        if s.active == s.node and digest != own and s.accused.get(node, -1) < version:
            s.accused[node] = version
            yield self.publish(
                DigestMismatch(job=s.job, node=s.node, suspect=node, version=version, expected=own, found=digest)
            )

    @on(NodeLost)
    def see_lost(self, event: NodeLost, now: float) -> Effects:
        """A node is dead: nobody waits for it any more."""
        yield from self._without(event.node, now, f"{event.node} is lost")

    @on(NodeLeaving)
    def see_leaving(self, event: NodeLeaving, now: float) -> Effects:
        """A node said goodbye."""
        yield from self._without(event.node, now, f"{event.node} is leaving")

    @on(WorkFailed)
    def see_failed(self, event: WorkFailed, now: float) -> Effects:
        """A node's job process died; if it comes back, it says that it is ready."""
        if event.job == self.state.job:
            yield from self._without(event.node, now, f"the job's process on {event.node} {event.kind}")

    @on(WorkEnded)
    def see_ended(self, event: WorkEnded, now: float) -> Effects:
        """A node's job process was ended; the next one begins without a model."""
        if event.job == self.state.job:
            yield from self._without(event.node, now, f"the job's process on {event.node} has ended: {event.reason}")

    def _without(self, node: NodeId, now: float, reason: str) -> Iterator[Effect]:
        s = self.state
        if node == s.node:
            return
        s.applied.pop(node, None)
        s.claims.pop(node, None)
        for key in [k for k, o in s.offers.items() if o.message.node == node and o.status != "here"]:
            del s.offers[key]
        if node == s.active:
            yield from self._succeed(now, reason)
        yield from self._lose_helper(node, now, reason)
        yield from self._maybe_open(now)
        yield from self._maybe_close(now)
        yield from self._maybe_announce(now)

    # Opening.

    @on(StartPatience)
    def enough_waited(self, timer: StartPatience, now: float) -> Effects:
        """Start with whoever has loaded the model."""
        yield from self._maybe_open(now)

    def _maybe_open(self, now: float) -> Iterator[Effect]:
        """Open the next round if it is this node's to open and its anchor is there."""
        s = self.state
        if s.opened or s.over or s.active != s.node or s.roster is None:
            return
        if s.applied.get(s.node, -1) < s.closed or s.node not in s.roster.nodes:
            return
        if s.closed == 0 and not self._may_start(now):
            return
        yield from self._open(now, "all are ready" if s.closed == 0 else f"round {s.closed} is closed")

    def _may_start(self, now: float) -> bool:
        """Whether the first round may begin: all have the model, or a quorum has and the patience is over."""
        s = self.state
        if s.roster is None or s.ready_at is None:
            return False
        if len(s.members) == len(s.roster.nodes):
            return True
        return now >= s.ready_at + self.settings.start_patience_seconds and len(s.members) >= s.roster.quorum

    def _open(self, now: float, reason: str, *, again: bool = False) -> Iterator[Effect]:
        s = self.state
        if s.heard[0] == s.round:
            s.term = max(s.term, s.heard[1] + 1)
        s.heard = (s.round, s.term)
        yield from self._refuse_strangers()
        if not again:
            s.opened_at, s.prolonged, s.due = now, 0, False
        s.opened = True
        s.forget_average()
        due = tuple(n for n in s.members if self._is_due(n))
        s.expected = staleness.waited_for(s, due, self._needed())
        yield CancelTimer(timer=TakeOver(round=s.round))
        yield self.set_timer(RoundDeadline(round=s.round), now + self._deadline())
        if not s.following and not s.sharded:
            s.following = True
            yield self._work("follow", works.Follow(kind="delta"), "this node reduces")
        opening = RoundOpened(
            job=s.job,
            node=s.node,
            round=s.round,
            term=s.term,
            deadline_seconds=self._deadline(),
            expected=s.expected,
            digest=s.digests.get(s.closed, ""),
            shards=self._share_out(),
            reason=reason,
        )
        yield self.publish(opening)
        yield from self._begin_sharing(opening)
        for key in sorted(s.offers):
            s.offers[key].attempts = 0
            yield from self._collect(key, now)
        yield from self._maybe_close(now)

    def _is_due(self, node: NodeId) -> bool:
        """Whether the round waits for a node: not for one that lags, nor for one whose link can't carry one a round.

        With `sync = "async"` it waits for nobody in particular.
        """
        s = self.state
        if s.sync == "async":
            return False
        return s.applied[node] >= s.closed - self.settings.lag_tolerated and node not in s.occasional

    # Closing, as all see it.

    @on(RoundClosed)
    def see_close(self, event: RoundClosed, now: float) -> Effects:
        """A round is over, whoever closed it: forget what it counted, and know who opens the next."""
        s = self.state
        if event.round <= s.closed:
            yield from self._count_overtaken(event)
            return
        yield CancelTimer(timer=RoundDeadline(round=s.round))
        yield CancelTimer(timer=HoldPatience(round=s.round))
        yield CancelTimer(timer=TakeOver(round=s.round))
        for contribution in event.contributions:
            offer = s.offers.pop(key_of(contribution.node, contribution.round), None)
            self._count(contribution.node, contribution.round, offer)
        s.closed, s.latest, s.active, s.term, s.opened = event.round, event, event.next_reducer, event.term, False
        s.forget_average()
        late = staleness.fall_behind(s)
        over = [(c.node, c.round) for c in event.contributions] + [(m.node, m.round) for m in late]
        yield self._release(over, f"round {event.round} is closed")
        yield from self._end_sharing()
        staleness.note_absences(s, event)
        asynchronous.note(s, event)
        yield from self._leave_behind(late)
        if s.active != s.node:
            yield from self._step_down()
            yield from self._stand_by(now, self._deadline())
        yield from self._maybe_open(now)

    def _count_overtaken(self, event: RoundClosed) -> Iterator[Effect]:
        """A closing that a later one overtook (it was delivered again): what it counted must not count again."""
        s = self.state
        for contribution in event.contributions:
            key = key_of(contribution.node, contribution.round)
            offer = s.offers.pop(key, None)
            if contribution.round not in s.counted.get(contribution.node, ()):
                self._count(contribution.node, contribution.round, offer)
            if offer is not None and key in s.reducing:
                yield from self._step_down()

    def _leave_behind(self, late: list[ContributionOffered]) -> Iterator[Effect]:
        """Gradients that came too late: whoever reduces next says so; nobody needs their bytes."""
        s = self.state
        for message in late:
            key = key_of(message.node, message.round)
            yield StopWork(key=f"collect/{key}", reason="its round is closed", cause=self._cause)
            if s.active == s.node:
                yield from self._refuse(message, staleness.objection(s, message))

    # Succession.

    @on(RoundOpened)
    def see_opening(self, event: RoundOpened, now: float) -> Effects:
        """Somebody reduces: with a higher term this node, if it does too, gives way."""
        s = self.state
        s.heard = max(s.heard, (event.round, event.term))
        yield from self._heed(event)
        if event.node == s.node or event.round != s.round or event.term < s.term:
            return
        if event.term == s.term and s.opened:
            return  # both took over at once: the compare-and-set decides
        s.active, s.term = event.node, event.term
        yield from self._step_down()
        yield from self._stand_by(now, event.deadline_seconds)

    @on(AverageOffered)
    def see_average(self, event: AverageOffered, now: float) -> Effects:
        """The active reducer is nearly done: others need time to get its average, which travels once more."""
        s = self.state
        if event.node != s.node and event.round == s.round and event.term >= s.term:
            yield from self._stand_by(now, self._deadline())
            yield from self._take_shard(event, now)

    @on(TakeOver)
    def take_over(self, timer: TakeOver, now: float) -> Effects:
        """The active reducer is overdue."""
        if timer.round == self.state.round:
            yield from self._become_active(now, f"{self.state.active or 'nobody'} has not closed the round in time")

    def _succeed(self, now: float, reason: str) -> Iterator[Effect]:
        """The active reducer is gone: the first of the list acts at once, the others in their turn."""
        s = self.state
        if s.opened:
            yield from self._step_down()  # it was this node's own round
        heirs = [n for n in s.successors if n != s.active]
        s.active = ""
        if heirs and heirs[0] == s.node:
            yield from self._become_active(now, reason)
        else:
            yield from self._stand_by(now, 0.0)

    def _become_active(self, now: float, reason: str) -> Iterator[Effect]:
        s = self.state
        if s.over or s.opened or s.node not in s.applied:
            return
        s.active = s.node
        s.term += 1
        if s.applied[s.node] >= s.closed:
            yield from self._open(now, f"takes over: {reason}")

    def _stand_by(self, now: float, patience: float) -> Iterator[Effect]:
        """Be ready to take over if nothing is heard for `patience` seconds and this node's place in the list."""
        s = self.state
        heirs = [n for n in s.successors if n != s.active]
        if s.over or s.node not in heirs:
            return
        grace = self.settings.takeover_grace_seconds * (heirs.index(s.node) + 1)
        yield self.set_timer(TakeOver(round=s.round), now + patience + grace)

    def _step_down(self) -> Iterator[Effect]:
        s = self.state
        s.opened = False
        s.forget_average()
        s.cut.forget_round()
        for offer in s.offers.values():
            if offer.status == "collecting":
                offer.status = "offered"
        if s.following:
            s.following = False
            yield StopWork(key="follow", reason="another node reduces", cause=self._cause)

    def check(self) -> None:
        """A contribution counts once; what is being averaged is here; the state is bounded."""
        s = self.state
        again = [key for key, offer in s.offers.items() if sites.is_counted(s, offer.message)]
        self.require(not again, f"{again} were counted and are offered again")
        here = [s.offers[key].message for key in s.reducing if key in s.offers and s.offers[key].status == "here"]
        self.require(len(here) == len(s.reducing), "averaging what isn't here")
        self.require(sites.disjoint(here), "a difference is averaged twice")
        self.require(s.opened or not s.reducing, "averaging without an open round")
        self.require(len(s.digests) <= KEPT_DIGESTS, "too many digests kept")
        self.require(not s.opened or s.active == s.node, "has a round open that another node reduces")

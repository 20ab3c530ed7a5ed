"""The trainer: one node's part in one job, as a state machine over rounds.

Version v of the anchor is the initial parameters after the updates 1..v. In round r = v + 1 a node trains from version v,
offers the difference, and takes the outer step when the round is closed. Nothing here waits for a particular node: rounds
close elsewhere, and a difference that a round doesn't list is offered until one does.
"""

from collections.abc import Iterator

from agents.base import Effect, Effects, Timer, on
from agents.inputs import Stopping, Woken
from agents.trainer import punctual, works
from agents.trainer.freeing import Freeing
from agents.trainer.offering import again
from agents.trainer.overlapping import together
from schemas.anchors import CaughtUp, DigestMismatch
from schemas.decisions import NodeLost
from schemas.ids import NodeId
from schemas.jobs import JobPhase, JobState
from schemas.training import (
    Assignment,
    ContributionRefused,
    Doing,
    NodeRefused,
    Roster,
    RoundApplied,
    RoundClosed,
    RoundOpened,
    StepTimed,
    TrainerReady,
    TrainingProgress,
)


class StillHere(Timer, frozen=True, kw_only=True):
    """Time to say that waiting isn't hanging."""


class TryAgain(Timer, frozen=True, kw_only=True):
    """A fetch that failed may be tried again."""


class Trainer(Freeing):
    """Takes local steps, offers differences, applies averages, catches up; the same on every node of a job."""

    # What the fleet decides.

    @on(JobState)
    def follow_job(self, event: JobState, now: float) -> Effects:
        """The job's size and phase."""
        s = self.state
        s.rounds, s.phase, s.sync, s.request = event.rounds, event.state, event.request.sync, event.request
        s.last_round = event.round if event.state is JobPhase.FINISHING else 0
        s.validate_every, s.checkpoint_every = event.request.validate_every, event.request.checkpoint_every
        s.verify_every = event.request.verify_every
        s.validate_share, s.target_loss = event.request.validate_share, event.request.target_loss
        if s.hang_seconds != event.request.hang_seconds:
            s.hang_seconds = event.request.hang_seconds
            if s.version >= 0:
                yield self._be_heard(now)
        yield from self._advance(now)

    @on(Roster)
    def follow_roster(self, event: Roster, now: float) -> Effects:
        """Who takes part."""
        if self.state.roster is None or event.version > self.state.roster.version:
            self.state.roster = event
            yield from self._heed_roster(event)
            if self.state.at_work and self.state.node not in event.nodes:
                yield from self._give_up_steps(f"out of the roster: {event.reason}")
            yield from self._advance(now)

    @on(Assignment)
    def follow_assignment(self, event: Assignment, now: float) -> Effects:
        """This node's share; counts from its next local round."""
        if event.version > self.state.assignment_version:
            self.state.assignment_version = event.version
            self.state.share = event.shares.get(self.state.node, self.state.share)
            self._heed_shares(event)
            yield from self._advance(now)

    @on(RoundOpened)
    def see_opening(self, event: RoundOpened, now: float) -> Effects:
        """A reducer collects; one that is new to a round may not know what was offered before."""
        s = self.state
        if event.round == 1:
            s.starts[event.node] = event.term, event.digest
        if (event.round, event.term) <= (s.opened, s.opened_term):
            return
        changed = event.node != s.opener or event.round == s.opened
        s.opened, s.opened_term, s.opened_digest, s.opener = event.round, event.term, event.digest, event.node
        s.shards, s.due_since = event.shards, now
        self._heed_opening(event, now)
        if changed and event.node != s.node:
            for offer in [offer for round_, offer in s.offers.items() if self._is_said(round_)]:
                yield self.publish(again(offer))
        yield from self._advance(now)

    # The model and the local steps.

    @on(Woken)
    def begin(self, event: Woken, now: float) -> Effects:
        """Loading has begun: the host does that without being asked."""
        yield self._progress("loading")

    @on(works.ModelBuilt)
    def have_model(self, event: works.ModelBuilt, now: float) -> Effects:
        """Version 0 is here; a job that is further on is caught up with first."""
        s = self.state
        s.version, s.digest, s.parameters = 0, event.digest, event.parameters
        yield self.publish(
            TrainerReady(
                job=s.job,
                node=s.node,
                version=0,
                digest=s.digest,
                parameters=event.parameters,
                device=event.device,
                code=event.code,
            )
        )
        yield self._progress("waiting")
        yield self._be_heard(now)
        yield from self._advance(now)

    @on(works.StepTaken)
    def see_step(self, event: works.StepTaken, now: float) -> Effects:
        """A sign of life from the local steps."""
        yield self._progress("computing", event.step, event.steps)

    @on(works.LocalRoundDone)
    def offer_difference(self, event: works.LocalRoundDone, now: float) -> Effects:
        """Local steps are done: say so, and send the difference on its way."""
        s = self.state
        yield from self._offer(event, now)
        if s.overlaps:
            s.made, s.ready, s.taking = event.round, None, False
        else:
            s.computing = 0
        if not s.overlaps or s.asynchronous:
            yield self._timed(event)
        yield self._progress("sending")
        yield from self._advance(now)

    @on(works.StepsDone)
    def have_steps(self, event: works.StepsDone, now: float) -> Effects:
        """Steps are taken; their difference waits for the anchor of the round before, if that isn't here yet."""
        self.state.computing, self.state.ready = 0, together(self.state.ready, event)
        if not self.state.asynchronous:  # there it is told once no further steps go with them
            yield self._timed(event)
        yield from self._advance(now)

    def _timed(self, done: works.LocalRoundDone | works.StepsDone) -> Effect:
        self.state.sample_seconds = done.seconds / max(1, done.samples)
        return self.publish(
            StepTimed(
                job=self.state.job,
                node=self.state.node,
                round=done.round,
                steps=done.steps,
                samples=done.samples,
                seconds=done.seconds,
                microbatch=done.microbatch,
                loss=done.loss,
                met=done.met.count,
            )
        )

    # Closed rounds.

    @on(RoundClosed)
    def see_close(self, event: RoundClosed, now: float) -> Effects:
        """A round is over. Closed rounds are applied in order, each once."""
        s = self.state
        if s.latest is None or event.round > s.latest.round:
            s.latest = event
        if event.round > s.version:
            s.closed[event.round] = event
            for old in sorted(s.closed)[: -self.settings.replay_updates - 1]:
                yield from self._settle(s.closed.pop(old))  # it will be in the snapshot that this node has to take
        yield from self._advance(now)

    @on(works.Applied)
    def have_applied(self, event: works.Applied, now: float) -> Effects:
        """The outer step is taken."""
        s = self.state
        s.busy, s.failures = "", 0
        closed = s.closed.pop(event.version, None)
        s.version, s.digest, s.due_since = event.version, event.digest, now
        yield self.publish(
            RoundApplied(job=s.job, node=s.node, version=event.version, digest=event.digest, seconds=event.seconds)
        )
        yield from self._verify()
        if closed is not None:
            yield from self._settle(closed)
            if closed.reducer == s.node and closed.round == s.latest_round:
                yield from self._look_after(event.version, now)
        yield from self._advance(now)

    @on(works.AnchorFetched)
    def have_caught_up(self, event: works.AnchorFetched, now: float) -> Effects:
        """The anchor was replaced by a present one; differences to a lost past are still good late ones."""
        s = self.state
        s.busy, s.failures = "", 0
        was, s.version, s.digest, s.due_since = s.version, event.version, event.digest, now
        if s.latest is not None:
            yield from self._settle(s.latest)
        for old in [r for r in s.closed if r <= s.version]:
            yield from self._settle(s.closed.pop(old))
        yield self.publish(
            CaughtUp(
                job=s.job,
                node=s.node,
                version=event.version,
                donor=event.donor,
                bytes=event.bytes,
                seconds=event.seconds,
                reason=_caught_up(was, event, s.latest_round),
            )
        )
        yield self.publish(RoundApplied(job=s.job, node=s.node, version=s.version, digest=s.digest, seconds=event.seconds))
        yield from self._advance(now)

    @on(works.FetchFailed)
    def retry(self, event: works.FetchFailed, now: float) -> Effects:
        """What could not be fetched is tried again after a pause; an update that is gone everywhere, as a snapshot."""
        s = self.state
        if event.work == "hold":
            return
        s.busy = ""
        s.failures += 1
        s.resting = True
        pause = min(self.settings.retry_seconds * 2 ** (s.failures - 1), self.settings.retry_limit_seconds)
        yield self.set_timer(TryAgain(), now + pause)

    @on(TryAgain)
    def rested(self, timer: TryAgain, now: float) -> Effects:
        """The pause after a failed fetch is over."""
        self.state.resting = False
        yield from self._advance(now)

    @on(ContributionRefused)
    def give_up_difference(self, event: ContributionRefused, now: float) -> Effects:
        """A reducer can't count this node's difference: it won't ever be, so forget it."""
        if event.contributor == self.state.node and event.round in self.state.offers:
            yield from self._refused(event)
            yield from self._advance(now)

    @on(NodeRefused)
    def give_up(self, event: NodeRefused, now: float) -> Effects:
        """The reducer says that this node runs other code: it can't be in this job."""
        if event.suspect == self.state.node:
            yield self._work("quit", works.Quit(reason=event.reason), event.reason)

    @on(DigestMismatch)
    def mend(self, event: DigestMismatch, now: float) -> Effects:
        """The reducer says that this node's anchor has other bits: take the reducer's."""
        s = self.state
        if event.suspect == s.node and event.found == s.digest and not s.busy:
            yield from self._catch_up(
                s.version, (event.node,), f"the anchor of version {event.version} has other bits here"
            )

    @on(StillHere)
    def still_here(self, timer: StillHere, now: float) -> Effects:
        """Waiting isn't hanging; while steps are computed they speak for themselves, but for a few further ones."""
        if not self.state.computing or self.state.ready is not None:
            yield self._progress("computing" if self.state.computing else self.state.doing)
        yield self._be_heard(now)

    def _be_heard(self, now: float) -> Effect:
        """Speak again in time: before the node takes a silence for a hang, even if two of three such words get lost."""
        return self.set_timer(StillHere(), now + min(self.settings.still_here_seconds, self.state.hang_seconds / 3))

    @on(Stopping)
    def stop(self, event: Stopping, now: float) -> Effects:
        """Local steps under way are given up."""
        if self.state.at_work:
            yield from self._give_up_steps(event.reason)

    @on(NodeLost)
    def forget_opener(self, event: NodeLost, now: float) -> Effects:
        """A reducer that died will be replaced by one that may not know the offers."""
        if event.node == self.state.opener:
            self.state.opener = ""
        yield from ()

    # What to do next.

    def _advance(self, now: float) -> Iterator[Effect]:
        """Start whatever can be started: first move the anchor on, then train from it."""
        s = self.state
        if s.version < 0 or s.phase.ended:
            return
        if not s.busy and not s.resting:
            yield from self._move_anchor()
        if s.over:
            if not s.behind:
                yield from self._finish(now)
            return
        yield from self._take_difference()
        if self._may_train(s.next_round) and (not s.behind or self._trains_behind()):
            yield from self._train(s.next_round, now)
        yield from self._tend_site(now)

    def _trains_behind(self) -> bool:
        """Whether to take steps from an older anchor: where averages take a round or more to come, there is no other.

        The anchor moves on beneath the steps as averages arrive; the difference counts as late as the round it is made for.
        With `sync = "async"` nothing is worth standing still for but a newcomer's first anchor.
        """
        s = self.state
        if s.asynchronous:
            return s.version > 0
        if s.share is None or s.busy == "catch_up" or (s.version == 0 and s.busy != "apply"):
            return False
        return s.share.every > 1 or (s.overlaps and s.latest_round <= s.version + 1)

    def _may_train(self, round_: int) -> bool:
        s = self.state
        if s.computing or s.phase is not JobPhase.RUNNING or s.share is None:
            return False
        if s.ready is not None and not self._further_steps():
            return False
        if s.roster is None or s.node not in s.roster.nodes or round_ > s.rounds:
            return False
        if s.version == 0 and s.opened < 1:
            return False  # the first round starts from the reducer's parameters: wait for its word on them
        return s.asynchronous or (round_ not in s.offers and len(s.offers) < self._most_pending)

    def _train(self, round_: int, now: float) -> Iterator[Effect]:
        s = self.state
        if s.share is None:
            return
        s.computing = round_
        share = s.share
        steps = self._further_steps() or punctual.steps(s, share, round_, now)
        if s.ready is None:
            yield self._progress("computing", 0, steps)
        yield self._work(
            "steps",
            works.LocalRound(
                round=round_,
                microbatch=share.microbatch,
                steps=steps,
                encoding=share.encoding,
                streams=share.streams,
                going_on=s.overlaps,
                meetings=self._meetings(round_),
                ahead=self._ahead(),
            ),
            f"round {round_}: {steps} steps of {share.microbatch} samples",
        )

    def _move_anchor(self) -> Iterator[Effect]:
        s = self.state
        latest = s.latest_round
        if latest > s.version:
            following = s.closed.get(s.version + 1)
            tries = 3 if s.donors else 1
            near = latest - s.version <= self.settings.replay_updates and s.failures < tries
            if near and following is not None and s.continues(following):
                s.busy = "apply"
                yield self._work(
                    "apply", works.ApplyAverage(round=following.round, average=following.average), "the round is closed"
                )
                return
            yield from self._catch_up(latest, s.donors, f"{latest - s.version} rounds behind")
        elif s.version == 0 and s.opened == 1 and s.opened_digest and s.opened_digest != s.digest and s.opener != s.node:
            donors = (s.opener,) if s.opener else s.donors
            yield from self._catch_up(0, donors, "the job starts from the reducer's parameters")

    def _catch_up(self, version: int, donors: tuple[NodeId, ...], reason: str) -> Iterator[Effect]:
        s = self.state
        s.busy = "catch_up"
        heads = bool(s.roster and s.roster.reducers and s.roster.reducers[0] == s.node)
        accept = heads and (not donors or s.failures >= self.settings.failures_until_loss)
        yield self._work("catch_up", works.CatchUp(version=version, donors=donors, accept_loss=accept), reason)

    def _progress(self, doing: Doing, step: int = 0, steps: int = 0) -> Effect:
        s = self.state
        return self.publish(
            TrainingProgress(job=s.job, node=s.node, round=s.version + 1, doing=doing, step=step, steps=steps)
        )

    def check(self) -> None:
        """Offers are bounded and this node's; closed rounds are ahead of the anchor."""
        s = self.state
        self.require(len(s.offers) <= self._most_pending, f"{len(s.offers)} differences wait")
        self.require(all(o.node == s.node for o in s.offers.values()), "an offer of another node")
        self.require(set(s.site.given) <= set(s.site.own) <= set(s.offers), "a site has what this node never offered")
        self.require(all(r > s.version for r in s.closed), "a closed round was applied and kept")
        self.require(len(s.closed) <= self.settings.replay_updates + 1, "too many closed rounds kept")


def _caught_up(was: int, event: works.AnchorFetched, latest: int) -> str:
    if event.lost:
        return f"the last {event.lost} updates are lost with all that held them: goes on from version {latest - event.lost}"
    return f"had version {was}, the job was at {max(event.version, latest)}"

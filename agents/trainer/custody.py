"""Looking after what all need: averages held for others, held-out loss, checkpoints, and the final model."""

import random
from collections.abc import Iterator

from agents.base import Agent, Effect, Effects, StartWork, StopWork, Timer, on
from agents.effects import Work
from agents.trainer import works
from agents.trainer.settings import TrainerSettings
from agents.trainer.state import TrainerState
from agents.trainer.validating import Seen
from schemas.ids import JobId, NodeId
from schemas.jobs import ModelStored
from schemas.training import AverageHeld, AverageOffered, TransferTimed, Validated
from schemas.verification import GradientVerified

SMALL_FLEET = 8  # nodes; in a roster of up to this many everybody says that it holds the average, above only the reducers


class StoreInstead(Timer, frozen=True, kw_only=True):
    """The nodes before this one have not stored the final model."""


class CheckpointAgain(Timer, frozen=True, kw_only=True):
    """A checkpoint that could not be stored may be tried again."""

    round: int


class Custodian(Agent[TrainerState]):
    """The part of a trainer that holds averages, validates, verifies, checkpoints and stores."""

    name = "trainer"

    def __init__(
        self, settings: TrainerSettings, rng: random.Random, *, job: JobId, node: NodeId, state: TrainerState | None = None
    ) -> None:
        super().__init__(state or TrainerState(job=job, node=node), rng)
        self.settings = settings

    @on(AverageOffered)
    def hold(self, event: AverageOffered, now: float) -> Effects:
        """A reducer made an average: get it, so that the round can close on two holders."""
        s = self.state
        if event.node != s.node and event.round > s.version >= 0:
            yield self._work(
                f"hold/{event.average.digest}",
                works.HoldAverage(round=event.round, average=event.average),
                f"round {event.round} closes once a second node holds its average",
            )

    @on(works.AverageHere)
    def say_held(self, event: works.AverageHere, now: float) -> Effects:
        """Tell the reducer, where this node's word is wanted; tell what the link carried."""
        s = self.state
        if event.seconds > 0:
            yield self.publish(
                TransferTimed(
                    job=s.job,
                    node=s.node,
                    direction="down",
                    bytes=event.bytes,
                    seconds=event.seconds,
                    streams=event.streams,
                )
            )
        roster = s.roster
        if roster is None or s.node in roster.reducers or len(roster.nodes) <= SMALL_FLEET:
            yield self.publish(AverageHeld(job=s.job, node=s.node, round=event.round, digest=event.digest))

    @on(works.ValidationDone)
    def say_loss(self, event: works.ValidationDone, now: float) -> Effects:
        """The held-out loss of a round."""
        s = self.state
        s.validations.under_way = False
        yield self.publish(Validated(job=s.job, node=s.node, round=event.round, loss=event.loss, seconds=event.seconds))

    @on(Validated)
    def see_loss(self, event: Validated, now: float) -> None:
        """Somebody's held-out loss, or this node's own: what the next one waits for."""
        self.state.validations.note(event.round, Seen(now, event.loss, event.seconds))

    def _verify(self) -> Iterator[Effect]:
        """Now and then all compute the same gradient of the same anchor."""
        s = self.state
        if s.verify_every and s.version % s.verify_every == 0:
            yield self._work("verify", works.VerifyGradient(version=s.version), f"all verify version {s.version}")

    @on(works.GradientComputed)
    def say_gradient(self, event: works.GradientComputed, now: float) -> Effects:
        """What this node's arithmetic makes of what all were given."""
        s = self.state
        yield self.publish(GradientVerified(job=s.job, node=s.node, version=event.version, gradient=event.gradient))

    @on(works.AnchorStored)
    def say_stored(self, event: works.AnchorStored, now: float) -> Effects:
        """A checkpoint or the model is in the store."""
        s = self.state
        yield self.publish(
            ModelStored(
                job=s.job,
                node=s.node,
                round=event.round,
                name=event.name,
                size=event.size,
                digest=event.digest,
                final=event.final,
                loss=event.loss,
            )
        )

    @on(ModelStored)
    def see_stored(self, event: ModelStored, now: float) -> Effects:
        """Somebody stored a checkpoint, or the final model: nobody else needs to."""
        s = self.state
        s.checkpointed = max(s.checkpointed, event.round)
        if event.final:
            s.stored = True
        yield from ()

    @on(works.StoreFailed)
    def store_again(self, event: works.StoreFailed, now: float) -> Effects:
        """What could not be stored is tried again, a checkpoint as a checkpoint: a final model would end the job."""
        again: Timer = StoreInstead() if event.final else CheckpointAgain(round=event.round)
        if event.final:
            self.state.stored = False
        yield self.set_timer(again, now + self.settings.retry_seconds)

    @on(CheckpointAgain)
    def checkpoint_again(self, timer: CheckpointAgain, now: float) -> Effects:
        """The pause after a checkpoint that failed is over, and nobody has stored one since: store the present anchor."""
        s = self.state
        if s.checkpointed < timer.round and not s.over and not s.phase.ended:
            work = works.StoreAnchor(round=s.version, final=False)
            yield self._work("checkpoint", work, f"the checkpoint of round {timer.round} could not be stored")

    @on(StoreInstead)
    def store_instead(self, timer: StoreInstead, now: float) -> Effects:
        """The nodes before this one in the list were to store the model, and have not."""
        if not self.state.stored:
            yield from self._store_final(now, "the nodes before this one have not stored the model")

    def _finish(self, now: float) -> Iterator[Effect]:
        """All rounds are applied: the first of the reducers' list stores the model, the others wait for it."""
        s = self.state
        if s.finishing or s.stored or s.roster is None or s.node not in s.roster.reducers:
            return
        s.finishing = True
        place = s.roster.reducers.index(s.node)
        if place == 0:
            yield from self._store_final(now, "all rounds are closed")
        else:
            yield self.set_timer(StoreInstead(), now + place * self.settings.store_patience_seconds)

    def _store_final(self, now: float, reason: str) -> Iterator[Effect]:
        s = self.state
        s.stored = True
        if s.version < s.rounds and s.validations.newest < s.version:  # nobody knew that this round is the last
            yield self._validate(s.version, now, "the job ends with this round")
        yield self._work("store", works.StoreAnchor(round=s.version, final=True), reason)

    def _validate(self, version: int, now: float, reason: str) -> StartWork:
        self.state.validations.begin(version, now)
        return self._work(f"validate/{version}", works.Validate(round=version), reason)

    def _look_after(self, version: int, now: float) -> Iterator[Effect]:
        """The reducer's node validates and checkpoints what it reduced: it has the best link and the newest anchor."""
        s = self.state
        last = version >= s.rounds
        regular = s.validate_every > 0 and version % s.validate_every == 0
        if last or (regular and s.validations.due(now, s.validate_share, s.target_loss)):
            yield self._validate(version, now, "a round is closed")
        if s.checkpoint_every and version % s.checkpoint_every == 0 and not last:
            yield self._work("checkpoint", works.StoreAnchor(round=version, final=False), "a checkpoint is due")

    def _give_up_steps(self, reason: str) -> Iterator[Effect]:
        """Local steps under way come to nothing: the next ones start from the anchor again."""
        self.state.computing, self.state.ready, self.state.taking = 0, None, False
        yield StopWork(key="steps", reason=reason, cause=self._cause)

    def _work(self, key: str, work: Work, reason: str) -> StartWork:
        return StartWork(key=key, work=work, reason=reason, cause=self._cause)

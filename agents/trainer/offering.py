"""What a node offers, and what becomes of it: kept until a round lists it, dropped where none will."""

from abc import abstractmethod
from collections.abc import Iterator

import msgspec

from agents.base import Effect, StopWork
from agents.trainer import works
from agents.trainer.custody import Custodian
from schemas.training import ContributionOffered, ContributionRefused, RoundClosed


class Offering(Custodian):
    """The part of a trainer that looks after its own differences and gradients."""

    def _offer(self, done: works.LocalRoundDone, now: float) -> Iterator[Effect]:
        """Say that it is ready, and send it on its way; a gradient whose round closed meanwhile goes nowhere.

        Nor does what this node will average itself: a reducer that takes over asks for it.
        """
        s = self.state
        if not s.counts(done.round):
            reason = f"round {done.round} closed before its gradient was ready"
            yield self._drop(f"drop/late/{done.round}", [done.round], reason)
            return
        offer = s.offers[done.round] = self._composed(done)
        yield from self._say(offer)

    def _composed(self, done: works.LocalRoundDone) -> ContributionOffered:
        s = self.state
        return ContributionOffered(
            job=s.job,
            node=s.node,
            round=done.round,
            base_digest=done.base_digest,
            samples=done.samples,
            steps=done.steps,
            loss=done.loss,
            compute_seconds=done.seconds,
            encoding=done.encoding,
            key=done.key,
            size=done.size,
            digest=done.digest,
            pieces=done.pieces,
        )

    def _say(self, offer: ContributionOffered) -> Iterator[Effect]:
        s = self.state
        yield self.publish(again(offer))
        if offer.pieces:
            others = self._away(len(offer.pieces))
            if others:
                stream = works.Stream(kind="delta", name=offer.key, pieces=others)
                yield self._work(f"stream/{offer.key}", stream, "a difference is ready to be averaged, piece by piece")
            return
        if s.opener == s.node:
            return  # this node reduces, and has the bytes at hand: they would only keep its link from the others'
        yield self._work(
            f"stream/{offer.key}", works.Stream(kind="delta", name=offer.key), "a difference is ready to be averaged"
        )

    def _away(self, pieces: int) -> tuple[int, ...]:
        """The pieces that others reduce, from this node's place in the list on: so that not everybody sends to the first at
        first."""
        s = self.state
        others = [piece for piece in range(pieces) if s.shards[piece : piece + 1] != (s.node,)]
        own = s.shards.index(s.node) if s.node in s.shards else 0
        return tuple(sorted(others, key=lambda piece: (piece < own, piece)))

    def _ahead(self) -> tuple[int, ...]:
        """The pieces of the next difference that may be sent while it is made: by who reduced them last."""
        s = self.state
        return self._away(s.pieces) if s.pieces > 1 and len(s.shards) == s.pieces else ()

    @property
    def _most_pending(self) -> int:
        """Differences that may wait at once; one of a fragment that missed its turn waits for the next."""
        return self.settings.pending_differences * self.state.parts

    def _settle(self, closed: RoundClosed) -> Iterator[Effect]:
        """What a round listed is counted, and late gradients never will be: forget them."""
        s = self.state
        counted = [c.round for c in closed.contributions if c.node == s.node and c.round in s.offers]
        late = [round_ for round_ in s.offers if round_ not in counted and not s.counts(round_)]
        for round_ in counted + late:
            del s.offers[round_]
        if counted:
            yield self._drop(f"drop/{closed.round}", counted, f"round {closed.round} counted them")
        if late:
            for round_ in late:
                yield StopWork(key=f"stream/{round_}", reason="its round is closed", cause=self._cause)
            yield self._drop(f"drop/late/{closed.round}", late, f"round {closed.round} closed without them")

    def _drop(self, key: str, rounds: list[int], reason: str) -> Effect:
        kinds = [f"delta{piece}" for piece in range(self.state.pieces)] if self.state.pieces > 1 else ["delta"]
        return self._work(key, works.Drop(tensors=tuple(f"{kind}/{round_}" for round_ in rounds for kind in kinds)), reason)

    def _is_said(self, round_: int) -> bool:
        """Whether an offer was told to anybody."""
        return True

    def _refused(self, event: ContributionRefused) -> Iterator[Effect]:
        """A difference can't be counted: it won't ever be, so forget it."""
        if self.state.offers.pop(event.round, None) is not None:
            yield self._drop(f"drop/refused/{event.round}", [event.round], event.reason)
            yield from self._begin_again(event.round, event.reason)

    @abstractmethod
    def _begin_again(self, round_: int, reason: str) -> Iterator[Effect]:
        """Give up what was built on a difference that was refused."""


def again(offer: ContributionOffered) -> ContributionOffered:
    """A fresh message of the same offer: each publish is sealed once."""
    return msgspec.structs.replace(offer, id="", cause="", at=0.0, source="")

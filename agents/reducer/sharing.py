"""A round that several nodes reduce, each its shard: what everybody of them does, the round's reducer included.

The round's reducer (who has it open) says in `RoundOpened` who reduces which piece. Each of them collects its pieces of
every contribution and says so (`PiecesReceived`). Once the reducer has decided what counts (`AverageOrdered`, in
`Ordering`), each averages its pieces and offers the average. What a node has collected stays with it until a round counts
it, so that a round that is opened again, by whomever, needs little of it once more.
"""

from abc import abstractmethod
from collections.abc import Iterator

from agents.base import Effect, Effects, StartWork, StopWork, on
from agents.reducer import policy, shard_works, works
from agents.reducer.closing import Closing, CollectAgain
from agents.reducer.shard_state import Collected, Held
from agents.reducer.state import Offer, key_of
from schemas.ids import NodeId
from schemas.shards import AverageOrdered, PieceHere, PiecesReceived
from schemas.training import AverageOffered, ContributionOffered, ContributionRefused, RoundOpened


class Sharing(Closing):
    """Collects and averages the pieces that are this node's; knows who has which."""

    @abstractmethod
    def _stand_by(self, now: float, patience: float) -> Iterator[Effect]:
        """Be ready to take over if nothing is heard for `patience` seconds and this node's place in the list."""

    @property
    def _mine(self) -> tuple[int, ...]:
        """The pieces that this node reduces in the round that is open."""
        opening = self.state.cut.opening
        if opening is None or opening.round != self.state.round or self.state.over:
            return ()
        return tuple(piece for piece, node in enumerate(opening.shards) if node == self.state.node)

    def _heed(self, event: RoundOpened) -> Iterator[Effect]:
        """An opening: whoever has the highest term says who reduces what."""
        s, cut = self.state, self.state.cut
        known = cut.opening
        same = known is not None and (known.round, known.term) == (event.round, event.term)
        if known is not None and (
            (event.round, event.term) < (known.round, known.term) or (same and known.node != event.node)
        ):
            return
        cut.opening = event
        if same or not s.sharded or event.round != s.round:
            return
        if event.node != s.node:
            cut.forget_round()
        yield from self._serve()
        if known is not None and (known.node != event.node or known.round == event.round):
            yield from self._report_again()

    def _serve(self) -> Iterator[Effect]:
        """Take in the streams of this node's pieces, and get those of all offers."""
        s, mine = self.state, self._mine
        for piece in s.cut.followed:
            if piece not in mine:
                yield StopWork(key=f"follow/delta{piece}", reason="another node reduces it", cause=self._cause)
        for piece in mine:
            if piece not in s.cut.followed:
                yield self._work(f"follow/delta{piece}", works.Follow(kind=f"delta{piece}"), "this node reduces it")
        s.cut.followed = mine
        for key in sorted(s.offers):
            yield from self._gather(key)

    def _serve_if_cut(self) -> Iterator[Effect]:
        """This node's own model is here: now it knows how vectors are cut, and may be needed already."""
        if self.state.sharded:
            yield from self._serve()

    def _end_sharing(self) -> Iterator[Effect]:
        """A round is closed: what is here of offers that nobody makes any more is of no use."""
        s = self.state
        if not s.sharded:
            return
        s.cut.forget_round()
        for key in [key for key in s.cut.collected if key not in s.offers]:
            yield self._let_go(key, "nobody offers it any more")
        if s.cut.opening is not None and s.cut.opening.round == s.round:
            yield from self._serve()  # it was heard of before the closing

    def _report_again(self) -> Iterator[Effect]:
        """A reducer that is new to the round may not know what is here."""
        s, mine = self.state, self._mine
        for key, collected in s.cut.collected.items():
            offer = s.offers.get(key)
            here = tuple(collected.pieces[piece] for piece in mine if piece in collected.pieces)
            if offer is not None and here and offer.message.digest == collected.digest:
                yield self._received(offer.message, here)

    @on(ContributionOffered)
    def take_offer(self, event: ContributionOffered, now: float) -> Effects:
        """A difference is there to be had: by who has the round open, or piece by piece by who reduces a shard."""
        yield from super().take_offer(event, now)
        key = key_of(event.node, event.round)
        offer = self.state.offers.get(key)
        if self.state.sharded and offer is not None:
            offer.since = offer.since or now
            if not self.state.opened:
                yield from self._gather(key)

    def _gather(self, key: str) -> Iterator[Effect]:
        """Get the pieces of an offer that this node reduces and hasn't got."""
        offer = self.state.offers[key]
        message = offer.message
        collected = self.state.cut.collected.get(key)
        here = collected.pieces if collected is not None and collected.digest == message.digest else {}
        wanted = tuple(
            shard_works.Wanted(piece=piece, size=message.pieces[piece].size, digest=message.pieces[piece].digest)
            for piece in self._mine
            if piece not in here and piece < len(message.pieces)
        )
        if offer.fetching or not wanted:
            return
        offer.fetching = True
        yield self._work(
            f"pieces/{key}/{message.digest[:12]}",
            shard_works.CollectPieces(
                contributor=message.node, round=message.round, key=message.key, digest=message.digest, pieces=wanted
            ),
            f"{message.node} offers its difference of round {message.round}",
        )

    @on(shard_works.PiecesCollected)
    def have_pieces(self, event: shard_works.PiecesCollected, now: float) -> Effects:
        """Some pieces are here in whole: say so."""
        s, key = self.state, key_of(event.contributor, event.round)
        offer = s.offers.get(key)
        if offer is None or offer.message.digest != event.digest:
            if offer is None:
                yield self._let_go(key, "it was counted elsewhere")
            return
        offer.fetching, offer.attempts = False, 0
        collected = s.cut.collected.get(key)
        if collected is None or collected.digest != event.digest:
            collected = s.cut.collected[key] = Collected(digest=event.digest, pieces={})
        collected.pieces.update({here.piece: here for here in event.pieces})
        yield self._received(offer.message, event.pieces)
        yield from self._gather(key)
        yield from self._note_pieces(offer, s.node, event.pieces, now)
        yield from self._carry_out(now)  # of a process that was started again after the order

    def _received(self, message: ContributionOffered, pieces: tuple[PieceHere, ...], unsound: str = "") -> Effect:
        s = self.state
        return self.publish(
            PiecesReceived(
                job=s.job,
                node=s.node,
                contributor=message.node,
                round=message.round,
                digest=message.digest,
                pieces=pieces,
                unsound=unsound,
            )
        )

    @on(works.CollectFailed)
    def lack_contribution(self, event: works.CollectFailed, now: float) -> Effects:
        """It could not be had: ask again after a pause; of what is unsound the round's reducer is told."""
        s, key = self.state, key_of(event.contributor, event.round)
        offer = s.offers.get(key)
        if s.sharded and offer is not None:
            offer.fetching = False
            if s.opened and offer.status == "here" and not event.unsound:
                return  # its pieces are where they are reduced: what failed was another try
            if event.unsound and not s.opened:
                yield self._received(offer.message, (), event.reason)
                return
            if not event.unsound and not s.opened:
                offer.attempts += 1
                if offer.attempts < self.settings.collect_attempts and event.contributor in s.applied:
                    again = CollectAgain(contributor=event.contributor, round=event.round)
                    yield self.set_timer(again, now + self.settings.collect_retry_seconds)
                return
        yield from super().lack_contribution(event, now)

    @on(CollectAgain)
    def collect_again(self, timer: CollectAgain, now: float) -> Effects:
        """The pause after a failed fetch is over."""
        key = key_of(timer.contributor, timer.round)
        if self.state.sharded and not self.state.opened and key in self.state.offers:
            yield from self._gather(key)
        yield from super().collect_again(timer, now)

    # Who has what.

    @on(PiecesReceived)
    def see_pieces(self, event: PiecesReceived, now: float) -> Effects:
        """Somebody who reduces a shard has its pieces of a contribution."""
        s = self.state
        offer = s.offers.get(key_of(event.contributor, event.round))
        if event.node == s.node or not s.sharded or offer is None or offer.message.digest != event.digest:
            return
        if not event.unsound:
            yield from self._note_pieces(offer, event.node, event.pieces, now)
        elif s.opened:
            yield from self._refuse(offer.message, event.unsound)
            yield from self._maybe_close(now)

    def _note_pieces(self, offer: Offer, node: NodeId, pieces: tuple[PieceHere, ...], now: float) -> Iterator[Effect]:
        for here in pieces:
            known = offer.there.get(here.piece)
            if known is not None and known.node != node and self._reduces(known.node, here.piece):
                continue  # by another opening, of somebody who is dead perhaps, it is another node's
            if 0 <= here.piece < self.state.cut.pieces:
                offer.there[here.piece] = Held(node=node, here=here)
        yield from self._maybe_complete(offer, now)
        yield from self._maybe_close(now)

    def _maybe_complete(self, offer: Offer, now: float) -> Iterator[Effect]:
        """Who has the round open takes a contribution for here once everybody has its pieces of it."""
        s = self.state
        opening = s.cut.opening
        if not s.opened or opening is None or offer.status != "collecting" or self._lacking(offer):
            return
        pieces = [offer.there[piece].here for piece in range(s.cut.pieces)]
        length, anchor = sum(p.trained + p.buffers for p in pieces), sum(p.anchor for p in pieces)
        yield from self._take_in(
            works.Collected(
                contributor=offer.message.node,
                round=offer.message.round,
                size=offer.message.size,
                seconds=now - offer.since,
                faint=length <= policy.FAINT**2 * anchor,
            )
        )

    def _reduces(self, node: NodeId, piece: int) -> bool:
        """Whether a piece is a node's to reduce, by the newest opening that was heard."""
        opening = self.state.cut.opening
        return opening is not None and piece < len(opening.shards) and opening.shards[piece] == node

    def _lacking(self, offer: Offer) -> set[NodeId]:
        """Who has not got its pieces of an offer, of those who are to reduce them now."""
        opening = self.state.cut.opening
        due = enumerate(opening.shards) if opening is not None else ()
        return {node for piece, node in due if piece not in offer.there or offer.there[piece].node != node}

    def _forget_pieces_at(self, node: NodeId) -> None:
        """A process is gone, with all that it had collected."""
        for offer in self.state.offers.values():
            offer.there = {piece: held for piece, held in offer.there.items() if held.node != node}
            if offer.status == "here" and self.state.sharded and not self.state.reducing and self._lacking(offer):
                offer.status = "collecting" if self.state.opened else "offered"

    @on(ContributionRefused)
    def drop_refused(self, event: ContributionRefused, now: float) -> Effects:
        """The round's reducer can't count a contribution: nobody needs its pieces."""
        s, key = self.state, key_of(event.contributor, event.round)
        offer = s.offers.get(key)
        if not s.sharded or event.node in (s.node, "") or event.node != s.active or offer is None:
            return
        if offer.message.digest == event.digest:
            del s.offers[key]
            yield self._let_go(key, "it is refused")

    def _let_go(self, key: str, reason: str) -> Effect:
        """Free what works hold of one offer."""
        self.state.cut.collected.pop(key, None)
        node, _, round_ = key.rpartition("/")
        return self._work(f"release/{key}", works.Release(parts=((node, int(round_)),)), reason)

    def _release(self, parts: list[tuple[NodeId, int]], reason: str) -> StartWork:
        for node, round_ in parts:
            self.state.cut.collected.pop(key_of(node, round_), None)
        return super()._release(parts, reason)

    # The average of a shard.

    @on(AverageOrdered)
    def see_order(self, event: AverageOrdered, now: float) -> Effects:
        """It is decided what the round's average is made of: make this node's shard of it."""
        opening = self.state.cut.opening
        if event.node == self.state.node or opening is None or not self.state.sharded:
            return
        if (event.round, event.term, event.node) == (opening.round, opening.term, opening.node):
            self.state.cut.order = event
            yield from self._stand_by(now, self._deadline())
            yield from self._carry_out(now)

    def _carry_out(self, now: float) -> Iterator[Effect]:
        """Average this node's pieces of what was ordered, once they are all here."""
        s, cut, mine = self.state, self.state.cut, self._mine
        order = cut.order
        if order is None or not mine or cut.reduced >= (order.round, order.term):
            return
        for part in order.parts:
            collected = cut.collected.get(key_of(part.node, part.round))
            if collected is None or collected.digest != part.digest or not set(mine) <= set(collected.pieces):
                return
        cut.reduced = order.round, order.term
        reason = f"round {order.round}: this node's shard of it, {len(mine)} of {s.cut.pieces} pieces"
        yield self._work(f"reduce/{order.round}-{order.term}", self._as_ordered(order), reason)

    def _as_ordered(self, order: AverageOrdered) -> shard_works.ReduceShard:
        return shard_works.ReduceShard(
            round=order.round,
            term=order.term,
            parts=order.parts,
            pieces=self._mine,
            encoding=order.encoding,
            aggregation=order.aggregation,
            extent=order.extent,
        )

    @on(shard_works.ShardReduced)
    def offer_shard(self, event: shard_works.ShardReduced, now: float) -> Effects:
        """The average of this node's shard is on its way."""
        s, order = self.state, self.state.cut.order
        if order is None or (event.round, event.term) != (order.round, order.term) or event.round != s.round:
            return
        offered = AverageOffered(
            job=s.job,
            node=s.node,
            round=s.round,
            term=event.term,
            average=event.average,
            pieces=event.pieces,
            apart=event.apart,
        )
        yield self.publish(offered)
        yield from self._take_shard(offered, now)

    def _take_shard(self, event: AverageOffered, now: float) -> Iterator[Effect]:
        """Note the average of a shard; overridden by who orders it."""
        yield from ()

"""Averages of shards that are made before they are ordered.

Between a helper's having its pieces and the order what each of them counts lie a message to the round's reducer, its wait
for whoever is last, and a message back; the average's own way comes after all that. Yet a helper that has its pieces of all
differences the round waits for mostly knows the order: what weighs how follows from the offers, and nothing is clipped in
an honest round. So it averages and streams at once, and says so (`AverageOffered`) once the order turns out to be what it
went by. If it is another, the average is made again as ordered, and the first one is no more than bytes that travelled
for nothing.
"""

from collections.abc import Iterator

import msgspec

from agents.base import Effect, Effects, StopWork, on
from agents.reducer import asynchronous, policy, shard_works
from agents.reducer.shard_state import Collected
from agents.reducer.sharing import Sharing
from agents.reducer.state import Offer
from schemas.ids import NodeId
from schemas.shards import OrderedPart
from schemas.training import ContributionOffered

WRONG_ROUNDS = 8
"""Rounds for which nothing is anticipated once an order was another one: where somebody has to be clipped, or comes at the
last moment, the next orders will be like it, and each average would travel twice."""


class Anticipating(Sharing):
    """Averages this node's shard as soon as its pieces of everybody's differences are here."""

    @on(shard_works.PiecesCollected)
    def have_pieces(self, event: shard_works.PiecesCollected, now: float) -> Effects:
        """Perhaps they were the last ones."""
        yield from super().have_pieces(event, now)
        yield from self._anticipate()

    @on(ContributionOffered)
    def take_offer(self, event: ContributionOffered, now: float) -> Effects:
        """Told late, pieces of it may be here already."""
        yield from super().take_offer(event, now)
        yield from self._anticipate()

    def _anticipate(self) -> Iterator[Effect]:
        s, cut, opening = self.state, self.state.cut, self.state.cut.opening
        if opening is None or cut.order is not None or cut.ahead is not None or not self._mine:
            return
        if s.sync == "async" or s.round < cut.anticipates_from:
            return
        parts = self._likely_parts(opening.expected)
        if not parts:
            return
        cut.ahead = shard_works.ReduceShard(
            round=opening.round,
            term=opening.term,
            parts=parts,
            pieces=self._mine,
            encoding=s.average_encoding,
            aggregation=policy.method(s.aggregation, len({part.node for part in parts})),
            ahead=True,
        )
        reason = f"round {opening.round}: this node's shard of it, as it is likely to be ordered"
        yield self._work(_key(cut.ahead), cut.ahead, reason)

    def _likely_parts(self, expected: tuple[NodeId, ...]) -> tuple[OrderedPart, ...]:
        """What the order will be made of: what is here, once that is everybody's who is waited for; else nothing."""
        s, mine = self.state, set(self._mine)
        here = [
            offer.message for key, offer in sorted(s.offers.items()) if self._has(offer, s.cut.collected.get(key), mine)
        ]
        if not {node for node in expected if node in s.members} <= {m.node for m in here if m.round == s.round}:
            return ()
        digests = {(m.node, m.round): m.digest for m in here}
        parts, _ = asynchronous.weighed(s, here)
        return tuple(
            OrderedPart(node=p.node, round=p.round, digest=digests[p.node, p.round], weight=p.weight) for p in parts
        )

    def _has(self, offer: Offer, collected: Collected | None, mine: set[int]) -> bool:
        """Whether an offer's pieces are here, and it can count in the open round."""
        message = offer.message
        if collected is None or collected.digest != message.digest or not self.state.in_turn(message.round):
            return False
        return mine <= set(collected.pieces)

    def _carry_out(self, now: float) -> Iterator[Effect]:
        """What was ordered may be made already, or under way."""
        cut, ahead, order = self.state.cut, self.state.cut.ahead, self.state.cut.order
        if ahead is None or order is None or cut.reduced >= (order.round, order.term):
            yield from super()._carry_out(now)
        elif ahead == msgspec.structs.replace(self._as_ordered(order), ahead=True):
            cut.reduced = order.round, order.term
            if cut.made is not None:
                yield from self.offer_shard(cut.made, now)
        else:
            cut.ahead, cut.made, cut.anticipates_from = None, None, order.round + WRONG_ROUNDS
            yield StopWork(key=_key(ahead), reason="another average is ordered", cause=self._cause)
            yield from super()._carry_out(now)

    @on(shard_works.ShardReduced)
    def offer_shard(self, event: shard_works.ShardReduced, now: float) -> Effects:
        """The average of this node's shard is on its way; nobody hears of it before it is ordered."""
        cut = self.state.cut
        if event.ahead:
            if cut.ahead is None or (event.round, event.term) != (cut.ahead.round, cut.ahead.term):
                return
            cut.made = event
            if cut.reduced != (event.round, event.term):
                return
        yield from super().offer_shard(event, now)


def _key(ahead: shard_works.ReduceShard) -> str:
    return f"ahead/{ahead.round}-{ahead.term}"

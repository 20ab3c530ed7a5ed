"""A round that several nodes reduce: what its reducer does besides. It shares the pieces out, decides what counts, closes.

A helper that dies, or is in the round's way, costs no more than another opening: with a higher term, and its pieces shared
out among the others. What those have collected they keep, contributors keep their differences until a round counted them,
and nobody applies anything before all shards have two holders: half an average is none.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator

import msgspec

from agents.base import Effect, Effects, Timer, on
from agents.reducer import allotment, shard_works, words
from agents.reducer.anticipating import Anticipating
from agents.reducer.closing import HoldPatience, RoundDeadline
from agents.reducer.settings import UNFIT_ROUNDS
from agents.reducer.shard_state import Shard
from agents.reducer.state import key_of
from agents.reducer.works import Part, Treated
from schemas.aggregation import Aggregation
from schemas.ids import NodeId
from schemas.shards import AverageOrdered, AverageShard, digest_of
from schemas.training import Average, AverageHeld, AverageOffered, ContributionReceived, RoundOpened

SMOOTHING = 0.3
"""Weight of the newest upload in a node's rate: the last three or four rounds decide."""


class ShardPatience(Timer, frozen=True, kw_only=True):
    """Averages of shards that were ordered are due."""

    round: int
    term: int


class Ordering(Anticipating):
    """The part of a reducer that has a round open which others reduce with it."""

    @abstractmethod
    def _open(self, now: float, reason: str, *, again: bool = False) -> Iterator[Effect]:
        """Open the round; `again`: anew, with what is left of its time."""

    # Sharing out.

    @on(ContributionReceived)
    def learn_rate(self, event: ContributionReceived, now: float) -> None:
        """What a node's uploads take: of what it doesn't reduce itself."""
        if event.seconds > 0 and event.carried > 0:
            rates, found = self.state.cut.rates, event.carried / event.seconds
            rates[event.contributor] = found + (1 - SMOOTHING) * (rates.get(event.contributor, found) - found)

    def _share_out(self) -> tuple[NodeId, ...]:
        """Who reduces which piece of the round that is being opened; nobody where vectors aren't cut."""
        s, cut = self.state, self.state.cut
        if not s.sharded or s.roster is None or s.request is None:
            return ()
        able = {n for n in s.members if s.applied[n] >= s.closed - self.settings.lag_tolerated}
        cut.unfit = {node: until for node, until in cut.unfit.items() if until > s.round}
        cut.rates = {node: rate for node, rate in cut.rates.items() if node in s.roster.nodes}
        candidates = [node for node in s.roster.helpers if node in able and node not in cut.unfit]
        candidates = allotment.regular(candidates, s.occasional, cut.rates)
        rates = allotment.filled(s.node, candidates, cut.rates, s.request.reducers)
        return allotment.share_out(cut.pieces, rates, cut.opening.shards if cut.opening is not None else ())

    def _begin_sharing(self, opening: RoundOpened) -> Iterator[Effect]:
        """This node opens a round: whether a contribution is here depends on who reduces what now."""
        s = self.state
        if s.sharded:
            s.cut.opening = opening
            s.cut.forget_round()
            for offer in s.offers.values():
                offer.status = "offered"
            yield from self._serve()

    def _fetch(self, key: str, now: float) -> Iterator[Effect]:
        if not self.state.sharded:
            yield from super()._fetch(key, now)
            return
        yield from self._gather(key)
        yield from self._maybe_complete(self.state.offers[key], now)

    # Deciding what counts.

    def _reduce(self, parts: tuple[Part, ...], method: Aggregation, reason: str, now: float) -> Iterator[Effect]:
        s = self.state
        if not s.sharded:
            yield from super()._reduce(parts, method, reason, now)
            return
        offers = [s.offers[key_of(part.node, part.round)] for part in parts]
        squares = (
            (sum(held.here.trained for held in o.there.values()), sum(held.here.buffers for held in o.there.values()))
            for o in offers
        )
        weigh = shard_works.Weigh(
            round=s.round,
            term=s.term,
            parts=parts,
            digests=tuple(offer.message.digest for offer in offers),
            squares=tuple(squares),
            aggregation=method,
        )
        yield self._work(f"weigh/{s.round}-{s.term}", weigh, reason)

    @on(shard_works.Weighed)
    def order(self, event: shard_works.Weighed, now: float) -> Effects:
        """It is decided what each contribution counts: everybody averages its shard."""
        s = self.state
        if not s.opened or (event.round, event.term) != (s.round, s.term) or s.cut.order is not None:
            return
        s.treated = event.treated
        order = AverageOrdered(
            job=s.job,
            node=s.node,
            round=s.round,
            term=s.term,
            parts=event.parts,
            aggregation=event.aggregation,
            encoding=s.average_encoding,
            extent=s.extent,
        )
        s.cut.order = order
        yield self.publish(order)
        yield self._watch_shards(now)
        yield from self._carry_out(now)

    def _watch_shards(self, now: float) -> Effect:
        s, patience = self.state, max(self.settings.shard_patience_seconds, self._deadline() / 2)
        return self.set_timer(ShardPatience(round=s.round, term=s.term), now + patience)

    # Closing.

    @on(ShardPatience)
    def miss_shards(self, timer: ShardPatience, now: float) -> Effects:
        """Who was to make its shard of the average has not: the others do."""
        s = self.state
        if not s.opened or (timer.round, timer.term) != (s.round, s.term):
            return
        late = [node for node in self._helpers if node not in s.cut.averages]
        if late:
            yield from self._do_without(late, "made no average", now)

    @property
    def _helpers(self) -> tuple[NodeId, ...]:
        opening = self.state.cut.opening
        return (
            tuple(node for node in dict.fromkeys(opening.shards) if node != self.state.node) if opening is not None else ()
        )

    def _take_shard(self, event: AverageOffered, now: float) -> Iterator[Effect]:
        s, cut = self.state, self.state.cut
        if not s.opened or cut.order is None or (event.round, event.term) != (s.round, s.term) or cut.opening is None:
            return
        due = tuple(piece for piece, node in enumerate(cut.opening.shards) if node == event.node)
        if not due or event.pieces != due or event.node in cut.averages:
            return
        made = event.average
        shard = AverageShard(pieces=due, key=made.key, size=made.size, digest=made.digest, holders=(event.node,))
        cut.averages[event.node] = Shard(average=shard, norm=made.norm, apart=event.apart)
        yield self.set_timer(HoldPatience(round=s.round), now + self.settings.hold_patience_seconds)
        yield from self._maybe_announce(now)

    @on(AverageHeld)
    def see_holder(self, event: AverageHeld, now: float) -> Effects:
        """A second holder: this average, or this shard of it, outlives the node that made it."""
        for node, shard in self.state.cut.averages.items():
            average = shard.average
            if average.digest == event.digest and event.node not in average.holders:
                held = msgspec.structs.replace(average, holders=(*average.holders, event.node))
                self.state.cut.averages[node] = msgspec.structs.replace(shard, average=held)
                yield from self._maybe_announce(now)
                return
        yield from super().see_holder(event, now)

    @on(HoldPatience)
    def offer_again(self, timer: HoldPatience, now: float) -> Effects:
        """Nobody else holds some average yet: offer it again; a helper whose average nobody can get is in the way."""
        s, cut = self.state, self.state.cut
        if not s.sharded:
            yield from super().offer_again(timer, now)
            return
        lonely = {node: shard for node, shard in cut.averages.items() if len(shard.average.holders) < 2}
        if timer.round != s.round or not s.opened or not lonely:
            return
        cut.asked += 1
        helpers = [node for node in lonely if node != s.node]
        if helpers and cut.asked > self.settings.shard_offers:
            yield from self._do_without(helpers, "made an average that nobody gets", now)
            return
        for shard in lonely.values():
            one = shard.average
            average = Average(key=one.key, size=one.size, digest=one.digest, holders=one.holders, norm=shard.norm)
            yield self.publish(
                AverageOffered(job=s.job, node=s.node, round=s.round, term=s.term, average=average, pieces=one.pieces)
            )
        yield self.set_timer(HoldPatience(round=s.round), now + self.settings.hold_patience_seconds)

    def _maybe_announce(self, now: float) -> Iterator[Effect]:
        s, cut = self.state, self.state.cut
        if s.sharded and s.opened and not s.announced and cut.order is not None and cut.opening is not None:
            alone = all(node == s.node for node in s.members)
            whole = set(cut.averages) == set(cut.opening.shards)
            if whole and (alone or all(len(shard.average.holders) > 1 for shard in cut.averages.values())):
                s.average = together(list(cut.averages.values()))
                s.holders = s.average.holders
                s.treated = told_apart(s.treated, [shard.apart for shard in cut.averages.values()])
        yield from super()._maybe_announce(now)

    # Who is in the way.

    @on(RoundDeadline)
    def time_is_up(self, timer: RoundDeadline, now: float) -> Effects:
        """Close with whoever is there; if a quorum lacks nothing but some helpers' pieces, go on without these helpers."""
        s = self.state
        if s.sharded and timer.round == s.round and s.opened and not s.reducing:
            s.due = True
            yield from self._maybe_close(now)
            if s.reducing:
                return
            present = [o for o in s.offers.values() if s.in_turn(o.message.round) and o.status != "offered"]
            lacking = {key_of(o.message.node, o.message.round): self._lacking(o) for o in present}
            patient = s.prolonged < self.settings.prolongations
            slow = allotment.in_the_way(lacking, self._helpers, self._needed(), patient=patient)
            if slow:
                yield from self._do_without(list(slow), "did not get its pieces in time", now)
                return
        yield from super().time_is_up(timer, now)

    def _do_without(self, nodes: list[NodeId], what: str, now: float) -> Iterator[Effect]:
        s = self.state
        for node in nodes:
            s.cut.unfit[node] = s.round + UNFIT_ROUNDS
        yield from self._open(now, f"{', '.join(nodes)} {what}: others reduce it", again=True)

    def _lose_helper(self, node: NodeId, now: float, reason: str) -> Iterator[Effect]:
        """A node's process is gone with what it collected; a shard of the average that others hold is not."""
        s, cut = self.state, self.state.cut
        self._forget_pieces_at(node)
        made = cut.averages.get(node)
        safe = made is not None and any(n != node and n in s.applied for n in made.average.holders)
        if s.sharded and s.opened and not s.announced and node in self._helpers and not safe:
            yield from self._open(now, f"{reason}: others reduce its shard", again=True)


def together(shards: list[Shard]) -> Average:
    """What a closed round says of the average that shards make up, in the order of their first pieces."""
    ordered = sorted(shards, key=lambda shard: shard.average.pieces)
    parts = tuple(shard.average for shard in ordered)
    return Average(
        key="",
        size=sum(part.size for part in parts),
        digest=digest_of(part.digest for part in parts),
        holders=tuple(dict.fromkeys(holder for part in parts for holder in part.holders)),
        norm=math.hypot(*(shard.norm for shard in ordered)),
        shards=parts,
    )


def told_apart(treated: tuple[Treated, ...], squares: list[dict[NodeId, float]]) -> tuple[Treated, ...]:
    """What is told of each contribution, with a remark on nodes whose votes stand apart from the average; the squares of
    their distances from each shard add up."""
    nodes = sorted({node for shard in squares for node in shard})
    far = words.apart({node: math.sqrt(sum(shard.get(node, 0.0) for shard in squares)) for node in nodes})
    return tuple(msgspec.structs.replace(each, remark=far.get(each.node, each.remark)) for each in treated)

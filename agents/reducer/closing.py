"""The second half of a round: collecting contributions, averaging them, closing on two holders."""

import random
from collections.abc import Iterator

import msgspec

from agents.base import Agent, CancelTimer, Effect, Effects, StartWork, Timer, on
from agents.effects import Work
from agents.reducer import asynchronous, policy, refusals, sites, staleness, words, works
from agents.reducer.settings import ReducerSettings
from agents.reducer.state import Offer, ReducerState, key_of
from schemas.aggregation import Aggregation
from schemas.ids import JobId, NodeId
from schemas.training import (
    AverageHeld,
    AverageOffered,
    ContributionOffered,
    ContributionReceived,
    ContributionRefused,
    RoundClosed,
    RoundOpened,
)


class RoundDeadline(Timer, frozen=True, kw_only=True):
    """A round's time is up."""

    round: int


class CollectAgain(Timer, frozen=True, kw_only=True):
    """A contribution that could not be fetched may be asked for again."""

    contributor: NodeId
    round: int


class HoldPatience(Timer, frozen=True, kw_only=True):
    """Nobody else has said that it holds the average."""

    round: int


class Closing(Agent[ReducerState]):
    """Collects, averages and closes; opening and succession are in `Reducer`."""

    name = "reducer"

    def __init__(
        self, settings: ReducerSettings, rng: random.Random, *, job: JobId, node: NodeId, state: ReducerState | None = None
    ) -> None:
        super().__init__(state or ReducerState(job=job, node=node), rng)
        self.settings = settings

    @on(ContributionOffered)
    def take_offer(self, event: ContributionOffered, now: float) -> Effects:
        """A difference is there to be had; whoever has the round open collects it."""
        s = self.state
        key = key_of(event.node, event.round)
        if event.round > s.round or not s.agrees(event.node):
            return
        wrong = refusals.objection(s, event)
        if wrong:
            if s.active == s.node:
                yield from self._refuse(event, wrong)
            return
        if sites.is_counted(s, event):
            return  # it crossed with the round's closing
        staleness.note_offer(s, event)
        known = s.offers.get(key)
        if known is not None and (known.message.digest == event.digest or key in s.reducing):
            known.attempts = 0
        else:
            s.offers[key] = Offer(message=event)
        if s.opened:
            yield from self._collect(key, now)

    def _collect(self, key: str, now: float) -> Iterator[Effect]:
        s = self.state
        offer = s.offers[key]
        offer.behind = sites.is_behind(s, key)
        if offer.status != "offered" or offer.behind:
            return
        message = offer.message
        if s.round - message.round > self.settings.late_limit:
            yield from self._refuse(message, f"{s.round - message.round} rounds late: it would hardly count any more")
            return
        wrong = staleness.objection(s, message)
        if wrong:
            yield from self._refuse(message, wrong)
            return
        offer.status = "collecting"
        yield from self._fetch(key, now)

    def _fetch(self, key: str, now: float) -> Iterator[Effect]:
        message = self.state.offers[key].message
        yield self._work(
            f"collect/{key}",
            works.Collect(
                contributor=message.node, round=message.round, key=message.key, size=message.size, digest=message.digest
            ),
            f"{message.node} offers its difference of round {message.round}",
        )

    @on(works.Collected)
    def have_contribution(self, event: works.Collected, now: float) -> Effects:
        """A contribution is here in whole."""
        yield from self._take_in(event)
        yield from self._maybe_close(now)

    def _take_in(self, event: works.Collected) -> Iterator[Effect]:
        s = self.state
        offer = s.offers.get(key_of(event.contributor, event.round))
        if offer is None:
            yield self._release([(event.contributor, event.round)], "it was counted elsewhere")
            return
        before = None if event.faint else refusals.twin(s, offer.message)
        if before is not None:
            yield from self._refuse(offer.message, f"it is the difference for round {before}, sent again")
            yield self._release([(event.contributor, event.round)], "it is refused")
            return
        offer.status = "here"
        if offer.told and s.sharded:
            return  # before the round was opened again
        offer.told = True
        for node in sites.nodes_of(offer.message):
            yield self.publish(
                ContributionReceived(
                    job=s.job,
                    node=s.node,
                    contributor=node,
                    round=event.round,
                    size=event.size,
                    seconds=event.seconds,
                    travelled=self._travelled(offer) if node == event.contributor else 0,
                )
            )

    def _travelled(self, offer: Offer) -> int | None:
        """Bytes of a contribution that came over links, where that isn't all or none."""
        message = offer.message
        away = (held.here.piece for held in offer.there.values() if held.node != message.node)
        return sum(message.pieces[piece].size for piece in away) if message.pieces else None

    @on(works.CollectFailed)
    def lack_contribution(self, event: works.CollectFailed, now: float) -> Effects:
        """It could not be had: ask again after a pause; what is unsound is refused and named."""
        s = self.state
        key = key_of(event.contributor, event.round)
        offer = s.offers.get(key)
        if offer is None:
            return
        if event.unsound:
            yield from self._refuse(offer.message, event.reason)
            yield from self._maybe_close(now)
            return
        offer.status = "offered"
        offer.attempts += 1
        for waiting in sites.freed(s):
            yield from self._collect(waiting, now)
        if s.opened and offer.attempts < self.settings.collect_attempts and event.contributor in s.applied:
            again = CollectAgain(contributor=event.contributor, round=event.round)
            yield self.set_timer(again, now + self.settings.collect_retry_seconds)

    @on(CollectAgain)
    def collect_again(self, timer: CollectAgain, now: float) -> Effects:
        """The pause after a failed fetch is over."""
        key = key_of(timer.contributor, timer.round)
        if self.state.opened and key in self.state.offers:
            yield from self._collect(key, now)

    def _refuse(self, message: ContributionOffered, reason: str) -> Iterator[Effect]:
        """Name who made an offer that can't be counted, and forget it; its owner forgets it too, and may make another."""
        s = self.state
        who = refusals.speaker(message)
        if who == message.node:
            key = key_of(message.node, message.round)
            if key in s.offers and s.offers[key].message.digest == message.digest and key not in s.reducing:
                del s.offers[key]  # and not another, sound one
            _note(s.rejected, message.node, message.round, message.digest, self.settings.late_limit + 2)
        late = staleness.lateness(s, message) if who == message.node else 0  # lateness excuses nobody else
        yield self.publish(
            ContributionRefused(
                job=s.job,
                node=s.node,
                contributor=who,
                round=message.round,
                reason=reason,
                digest=message.digest,
                late=late,
            )
        )

    @on(RoundDeadline)
    def time_is_up(self, timer: RoundDeadline, now: float) -> Effects:
        """Close with whoever is there, or prolong for want of a quorum and say so."""
        s = self.state
        if timer.round != s.round or not s.opened or s.reducing:
            return
        s.due = True
        yield from self._maybe_close(now)
        if s.reducing:
            return
        s.prolonged += 1
        more = policy.prolongation(self._deadline() * self.settings.prolong, s.prolonged, self.settings.prolongations)
        here = len(self._contributors())
        yield self.set_timer(RoundDeadline(round=s.round), now + more)
        yield self.publish(
            RoundOpened(
                job=s.job,
                node=s.node,
                round=s.round,
                term=s.term,
                deadline_seconds=more,
                expected=s.expected,
                digest=s.digests.get(s.closed, ""),
                shards=s.cut.opening.shards if s.sharded and s.cut.opening is not None else (),
                reason=f"prolonged by {more:.1f} s: {here} of {self._needed()} contributions are here",
            )
        )

    def _maybe_close(self, now: float) -> Iterator[Effect]:
        """Average as soon as everybody expected is there, or a quorum is and the time is up."""
        s = self.state
        if not s.opened or s.reducing or s.over:
            return
        for key in sites.freed(s):
            yield from self._collect(key, now)
        here = sorted(key for key, offer in s.offers.items() if self._counts_now(offer))
        there = self._contributors()
        waited_for = self._missing()
        if not here or (waited_for and not s.due) or ((waited_for or self._refused()) and len(there) < self._needed()):
            return
        if asynchronous.waits(s, there):
            return
        s.reducing = tuple(here)
        s.made_of, s.extent = asynchronous.weighed(s, [s.offers[key].message for key in here])
        method = policy.method(s.aggregation, len(there))
        yield CancelTimer(timer=RoundDeadline(round=s.round))
        why = f"round {s.round}: {len(there)} contributions, without {', '.join(waited_for) or 'nobody'}"
        yield from self._reduce(s.made_of, method, why, now)

    def _reduce(self, parts: tuple[works.Part, ...], method: Aggregation, reason: str, now: float) -> Iterator[Effect]:
        s = self.state
        reduce = works.Reduce(
            round=s.round,
            term=s.term,
            parts=parts,
            encoding=s.average_encoding,
            aggregation=method,
            extent=s.extent,
        )
        yield self._work("reduce", reduce, reason)

    @on(works.Reduced)
    def offer_average(self, event: works.Reduced, now: float) -> Effects:
        """The average is on its way; the round closes once somebody else has it too."""
        s = self.state
        if event.round != s.round or event.term != s.term or not s.opened:
            return
        s.average, s.treated = event.average, event.treated
        s.holders = (s.node,)
        yield from self._announce_average(now)
        yield from self._maybe_announce(now)

    @on(HoldPatience)
    def offer_again(self, timer: HoldPatience, now: float) -> Effects:
        """Nobody holds the average yet: offer it again."""
        if timer.round == self.state.round and self.state.opened and self.state.average is not None:
            yield from self._announce_average(now)

    def _announce_average(self, now: float) -> Iterator[Effect]:
        s = self.state
        if s.average is None:
            return
        yield self.publish(AverageOffered(job=s.job, node=s.node, round=s.round, term=s.term, average=s.average))
        yield self.set_timer(HoldPatience(round=s.round), now + self.settings.hold_patience_seconds)

    @on(AverageHeld)
    def see_holder(self, event: AverageHeld, now: float) -> Effects:
        """A second holder: the average outlives this node."""
        s = self.state
        if s.average is not None and event.digest == s.average.digest and event.node not in s.holders:
            s.holders = (*s.holders, event.node)
            yield from self._maybe_announce(now)

    def _maybe_announce(self, now: float) -> Iterator[Effect]:
        s = self.state
        if s.average is None or s.announced:
            return
        others = [n for n in s.members if n != s.node]
        if others and len(s.holders) < 2:
            return
        s.announced = True
        yield self.publish(self._closing_words(now), first=True)

    def _closing_words(self, now: float) -> RoundClosed:
        s = self.state
        if s.average is None:
            raise AssertionError("a round is closed with an average")
        messages = [s.offers[key].message for key in s.reducing]
        counted = words.contributions(messages, s.treated, s.round, s.made_of)
        method = policy.method(s.aggregation, len({c.node for c in counted}))
        missing = self._missing()
        samples = sum(c.samples for c in counted)
        absent = ", ".join(missing) + staleness.consequence(s, missing)
        return RoundClosed(
            job=s.job,
            round=s.round,
            term=s.term,
            reducer=s.node,
            next_reducer=self._next_reducer(),
            contributions=counted,
            missing=missing,
            average=msgspec.structs.replace(s.average, holders=s.holders),
            samples=samples,
            loss=sum(c.loss * c.samples for c in counted) / max(1, samples),
            seconds=now - s.opened_at,
            on_time=not missing,
            reason=words.closing(counted, absent, sorted(self._refused()), s.aggregation, method),
            aggregation=method,
            extent=s.extent,
        )

    def _next_reducer(self) -> NodeId:
        """The first of the list that keeps up, else this node."""
        s = self.state
        for node in s.successors:
            if node == s.node or s.applied[node] >= s.closed:
                return node
        return s.node

    def _missing(self) -> tuple[NodeId, ...]:
        """Expected, a member still, and not here with a difference of this round: an older one is late, the next awaited.

        Not one whose share says since the opening that its link can't carry one a round.
        """
        s = self.state
        here, refused, members = self._here(), self._refused(), s.members
        waited_for = (n for n in s.expected if n in members and n not in s.occasional and n not in refused)
        return tuple(node for node in waited_for if node not in here)

    def _refused(self) -> set[NodeId]:
        """Whose difference of this round was refused; another one counts if it comes, but nobody waits for it."""
        s = self.state
        here = self._here()
        return {node for node in s.expected if s.round in s.rejected.get(node, {}) and node not in here}

    def _here(self) -> set[NodeId]:
        """Whose difference of this round is here."""
        there = (offer.message for offer in self.state.offers.values() if offer.status == "here")
        return {node for message in there if message.round == self.state.round for node in sites.nodes_of(message)}

    def _contributors(self) -> set[NodeId]:
        offers = self.state.offers.values()
        return {node for offer in offers if self._counts_now(offer) for node in sites.nodes_of(offer.message)}

    def _counts_now(self, offer: Offer) -> bool:
        """Whether it is here, and its fragment is the one that the open round exchanges; else it waits for its turn."""
        return offer.status == "here" and self.state.in_turn(offer.message.round)

    def _needed(self) -> int:
        s = self.state
        quorum = s.roster.quorum if s.roster is not None else 1
        return policy.needed(quorum, len(s.members), s.prolonged, self.settings.prolongations)

    def _deadline(self) -> float:
        return self.state.deadline_seconds or self.settings.default_deadline_seconds

    def _count(self, node: NodeId, round_: int, offer: Offer | None) -> None:
        """Note that a contribution was counted: it never is again."""
        kept = self.settings.late_limit + 2
        counted = self.state.counted.setdefault(node, [])
        counted.append(round_)
        del counted[:-kept]
        sites.forget_counted(self.state, node, round_)
        if offer is not None:
            _note(self.state.prints, node, round_, offer.message.digest, kept)

    def _release(self, parts: list[tuple[NodeId, int]], reason: str) -> StartWork:
        parts, self.state.overtaken = parts + self.state.overtaken, []
        return self._work(f"release/{self.state.closed}", works.Release(parts=tuple(parts)), reason)

    def _work(self, key: str, work: Work, reason: str) -> StartWork:
        return StartWork(key=key, work=work, reason=reason, cause=self._cause)


def _note(digests: dict[NodeId, dict[int, str]], node: NodeId, round_: int, digest: str, kept: int) -> None:
    """Note a digest for a round, and forget the oldest rounds but `kept`."""
    mine = digests.setdefault(node, {})
    mine[round_] = digest
    for old in sorted(mine)[:-kept]:
        del mine[old]

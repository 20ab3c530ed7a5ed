"""The second half of a round: collecting contributions, averaging them, closing on two holders."""

import random
from collections.abc import Iterator

import msgspec

from agents.base import Agent, CancelTimer, Effect, Effects, StartWork, Timer, on
from agents.effects import Work
from agents.reducer import policy, works
from agents.reducer.settings import ReducerSettings
from agents.reducer.state import Offer, ReducerState
from schemas.ids import JobId, NodeId
from schemas.training import (
    AverageHeld,
    AverageOffered,
    Contribution,
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
        key = _key(event.node, event.round)
        if event.round in s.counted.get(event.node, ()) or event.round > s.round or not s.agrees(event.node):
            return
        known = s.offers.get(key)
        if known is not None and (known.message.digest == event.digest or key in s.reducing):
            known.attempts = 0
        else:
            s.offers[key] = Offer(message=event)
        if s.opened:
            yield from self._collect(key)

    def _collect(self, key: str) -> Iterator[Effect]:
        s = self.state
        offer = s.offers[key]
        if offer.status != "offered":
            return
        message = offer.message
        if s.round - message.round > self.settings.late_limit:
            yield from self._refuse(key, f"{s.round - message.round} rounds late: it would hardly count any more")
            return
        offer.status = "collecting"
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
        s = self.state
        offer = s.offers.get(_key(event.contributor, event.round))
        if offer is None:
            yield self._release([(event.contributor, event.round)], "it was counted elsewhere")
            return
        offer.status = "here"
        yield self.publish(
            ContributionReceived(
                job=s.job,
                node=s.node,
                contributor=event.contributor,
                round=event.round,
                size=event.size,
                seconds=event.seconds,
            )
        )
        yield from self._maybe_close(now)

    @on(works.CollectFailed)
    def lack_contribution(self, event: works.CollectFailed, now: float) -> Effects:
        """It could not be had: ask again after a pause; what is unsound is refused and named."""
        s = self.state
        key = _key(event.contributor, event.round)
        offer = s.offers.get(key)
        if offer is None:
            return
        if event.unsound:
            yield from self._refuse(key, event.reason)
            yield from self._maybe_close(now)
            return
        offer.status = "offered"
        offer.attempts += 1
        if s.opened and offer.attempts < self.settings.collect_attempts and event.contributor in s.applied:
            again = CollectAgain(contributor=event.contributor, round=event.round)
            yield self.set_timer(again, now + self.settings.collect_retry_seconds)

    @on(CollectAgain)
    def collect_again(self, timer: CollectAgain, now: float) -> Effects:
        """The pause after a failed fetch is over."""
        key = _key(timer.contributor, timer.round)
        if self.state.opened and key in self.state.offers:
            yield from self._collect(key)

    def _refuse(self, key: str, reason: str) -> Iterator[Effect]:
        s = self.state
        message = s.offers.pop(key).message
        self._count(message.node, message.round)
        yield self.publish(
            ContributionRefused(job=s.job, node=s.node, contributor=message.node, round=message.round, reason=reason)
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
                reason=f"prolonged by {more:.1f} s: {here} of {self._needed()} contributions are here",
            )
        )

    def _maybe_close(self, now: float) -> Iterator[Effect]:
        """Average as soon as everybody expected is there, or a quorum is and the time is up."""
        s = self.state
        if not s.opened or s.reducing or s.over:
            return
        here = sorted(key for key, offer in s.offers.items() if offer.status == "here")
        there = self._contributors()
        waited_for = self._missing()
        if not here or (waited_for and not (s.due and len(there) >= self._needed())):
            return
        s.reducing = tuple(here)
        messages = [s.offers[key].message for key in here]
        parts = policy.weights([(m.node, m.round, m.samples) for m in messages], s.round)
        yield CancelTimer(timer=RoundDeadline(round=s.round))
        yield self._work(
            "reduce",
            works.Reduce(round=s.round, term=s.term, parts=parts, encoding=s.average_encoding),
            f"round {s.round}: {len(there)} contributions, without {', '.join(waited_for) or 'nobody'}",
        )

    @on(works.Reduced)
    def offer_average(self, event: works.Reduced, now: float) -> Effects:
        """The average is on its way; the round closes once somebody else has it too."""
        s = self.state
        if event.round != s.round or event.term != s.term or not s.opened:
            return
        s.average = event.average
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
        messages = {key: s.offers[key].message for key in s.reducing}
        parts = policy.weights([(m.node, m.round, m.samples) for m in messages.values()], s.round)
        contributions = tuple(
            Contribution(
                node=part.node,
                round=part.round,
                late=s.round - part.round,
                samples=messages[_key(part.node, part.round)].samples,
                weight=part.weight,
                loss=messages[_key(part.node, part.round)].loss,
            )
            for part in parts
        )
        samples = sum(c.samples for c in contributions)
        missing = self._missing()
        late = [f"{c.node} ({c.late} late)" for c in contributions if c.late]
        words = f"{len(contributions)} contributions of {samples} samples"
        words += f"; with {', '.join(late)}" if late else ""
        words += f"; the deadline passed without {', '.join(missing)}" if missing else ""
        return RoundClosed(
            job=s.job,
            round=s.round,
            term=s.term,
            reducer=s.node,
            next_reducer=self._next_reducer(),
            contributions=contributions,
            missing=missing,
            average=msgspec.structs.replace(s.average, holders=s.holders),
            samples=samples,
            loss=sum(c.loss * c.samples for c in contributions) / max(1, samples),
            seconds=now - s.opened_at,
            on_time=not missing,
            reason=words,
        )

    def _next_reducer(self) -> NodeId:
        """The first of the list that keeps up, else this node."""
        s = self.state
        for node in s.successors:
            if node == s.node or s.applied[node] >= s.closed:
                return node
        return s.node

    def _missing(self) -> tuple[NodeId, ...]:
        """Expected, alive, and not here with a difference of this round: an older one is late, its next is waited for.

        Not one whose share says since the opening that its link can't carry one a round.
        """
        s = self.state
        here = {o.message.node for o in s.offers.values() if o.status == "here" and o.message.round == s.round}
        waited_for = (node for node in s.expected if node in s.applied and node not in s.occasional)
        return tuple(node for node in waited_for if node not in here)

    def _contributors(self) -> set[NodeId]:
        return {offer.message.node for offer in self.state.offers.values() if offer.status == "here"}

    def _needed(self) -> int:
        s = self.state
        quorum = s.roster.quorum if s.roster is not None else 1
        return policy.needed(quorum, len(s.members), s.prolonged, self.settings.prolongations)

    def _deadline(self) -> float:
        return self.state.deadline_seconds or self.settings.default_deadline_seconds

    def _count(self, node: NodeId, round_: int) -> None:
        """Note that a contribution was counted (or refused): it never is again."""
        counted = self.state.counted.setdefault(node, [])
        counted.append(round_)
        del counted[: -self.settings.late_limit - 2]

    def _release(self, parts: list[tuple[NodeId, int]], reason: str) -> StartWork:
        return self._work(f"release/{self.state.closed}", works.Release(parts=tuple(parts)), reason)

    def _work(self, key: str, work: Work, reason: str) -> StartWork:
        return StartWork(key=key, work=work, reason=reason, cause=self._cause)


def _key(node: NodeId, round_: int) -> str:
    return f"{node}/{round_}"

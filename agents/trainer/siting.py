"""Averaging inside a site: what nodes of one site give to their speaker, and when each goes alone after all.

In a round whose group is whole, a node's difference is encoded and kept as ever, but not offered: it goes into the site's
average, which the speaker offers in the name of all. Whatever fails, fails towards sending alone what is kept anyway:
somebody missing or late inside, a speaker that is lost, refused or silent. The reducer lists a difference once, however
often it was offered (`agents/reducer/sites.py`), so that nobody has to know for certain what others believe.

A group is never mended. Any failure and any change of members ends it; the speaker opens another one, after failures in
ever longer intervals.
"""

from collections.abc import Iterator

import msgspec

from agents.base import Effect, Effects, on
from agents.trainer import meeting, site_works, works
from agents.trainer.overlapping import Overlapping
from agents.trainer.site_state import SiteState
from schemas.ids import NodeId
from schemas.jobs import JobPhase
from schemas.sites import SiteMember, SiteOpened, SitePaced, SiteParted, why_alone
from schemas.training import Assignment, ContributionRefused, Roster, RoundClosed, RoundOpened

LEAST_SECONDS = 1.0
"""For an average inside: machines of one site are a fraction of a second apart."""

MOST_SECONDS = 60.0
"""As long as any holder of an average has to come up with it."""

LEAST_ROUND = 1.0
"""Seconds of steps in a round, from which on all of a new group hear that it is whole before their next one begins."""

SLOWER = 5.0
"""Times what an average took before, after which its bytes are given up: links change, and learning that is one round."""

WAITS = 8
"""Rounds whose waits are remembered: somebody validates in one of them."""

LONGEST_REST = 6
"""Doublings of the rounds between two attempts: a site behind a firewall tries in every 64th round."""

FORGOTTEN = 2
"""Rounds closed without a difference that was given away, after which it is offered alone: both that may wait would be
with a speaker of whose end nobody was told."""


def average_key(round_: int) -> str:
    """The name that a site's contribution is kept under, beside the node's own difference."""
    return f"{round_}-site"


class Siting(Overlapping):
    """The part of a trainer that averages with its neighbours."""

    @property
    def _site(self) -> SiteState:
        return self.state.site

    # Who is in it.

    def _heed_roster(self, roster: Roster) -> Iterator[Effect]:
        """Who stands at this node's site; who is gone from it keeps nothing, and ends the group."""
        s, site = self.state, self._site
        before, site.nodes = site.nodes, next((nodes for nodes in roster.sites if s.node in nodes), ())
        for round_, speaker in list(site.given.items()):
            if speaker not in (s.node, *site.nodes):
                yield from self._go_alone(round_)
        gone = [node for node in site.members if node not in site.nodes]
        if site.epoch and gone:
            yield from self._part(f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} not there any more", tell=False)
        if set(before) != set(site.nodes):
            site.failures, site.rest_until = 0, 0  # what kept the others from meeting may be what is gone

    def _heed_shares(self, event: Assignment) -> None:
        self._site.occasional = frozenset(node for node, share in event.shares.items() if share.every > 1)

    def _heed_opening(self, event: RoundOpened, now: float) -> None:
        self._site.due, self._site.patience = now + event.deadline_seconds, event.deadline_seconds

    def _tend_site(self, now: float) -> Iterator[Effect]:
        """Open a group if this node is to speak and there is none of the right nodes."""
        s, site = self.state, self._site
        wanted = tuple(node for node in site.nodes if node not in site.occasional)
        if wanted[:1] != (s.node,) or len(wanted) < 2 or s.phase is not JobPhase.RUNNING or s.request is None:
            return
        present = site.epoch and set(site.members) == set(wanted)
        if (
            (present and (site.members[0] == s.node or self._suits()))
            or site.averaging
            or s.latest_round + 1 < site.rest_until
            or why_alone(s.request, s.parameters)
        ):
            return
        yield from self._enter(max(int(now * 1000), site.epoch + 1), wanted)
        yield self._work(
            f"site/{site.epoch}",
            site_works.OpenSite(
                epoch=site.epoch,
                members=wanted,
                round=self._upcoming,
                within=self.settings.site_join_seconds,
                parts=site.parts if site.pace >= LEAST_ROUND else 1,
            ),
            f"{len(wanted)} nodes of this site are ready",
        )

    def _suits(self) -> bool:
        """Whether a group may go on though this node, which isn't its speaker, is to speak: where it is only because it
        reduces now, and they average in the midst of rounds. A change costs a round in which each is alone."""
        roster = self.state.roster
        reduces = roster is not None and roster.reducers[:1] == (self.state.node,)
        return reduces and self._site.joined and self._site.plan[1] > 1

    def _enter(self, epoch: int, members: tuple[NodeId, ...]) -> Iterator[Effect]:
        site = self._site
        if site.epoch:
            yield self._work(f"leave/{site.epoch}", site_works.LeaveSite(epoch=site.epoch), "another group takes its place")
        site.epoch, site.members, site.joined = epoch, members, False

    @property
    def _upcoming(self) -> int:
        return max(self.state.version, self.state.latest_round) + 1

    @on(site_works.SiteListening)
    def call_members(self, event: site_works.SiteListening, now: float) -> Effects:
        """The others may come."""
        s, site = self.state, self._site
        if event.epoch == site.epoch:
            yield self.publish(
                SiteOpened(
                    job=s.job,
                    node=s.node,
                    epoch=event.epoch,
                    members=site.members,
                    addresses=event.addresses,
                    port=event.port,
                )
            )

    @on(SiteOpened)
    def follow_speaker(self, event: SiteOpened, now: float) -> Effects:
        """A speaker of this site waits for this node."""
        s, site = self.state, self._site
        if s.node == event.node or s.node not in event.members or event.node not in site.nodes or s.version < 0:
            return
        if site.averaging:
            yield from self._go_alone(site.averaging)
        yield from self._enter(event.epoch, event.members)
        join = site_works.JoinSite(
            epoch=event.epoch,
            members=event.members,
            addresses=event.addresses,
            port=event.port,
            round=self._upcoming,
            within=self.settings.site_join_seconds,
        )
        yield self._work(f"site/{event.epoch}", join, f"{event.node} calls the site's nodes")

    @on(site_works.SiteJoined)
    def be_joined(self, event: site_works.SiteJoined, now: float) -> None:
        """All are there."""
        site = self._site
        if event.epoch == site.epoch:
            site.joined, site.first, site.plan = True, event.first, (event.first, event.parts)

    # A round.

    def _offer(self, done: works.LocalRoundDone, now: float) -> Iterator[Effect]:
        s, site = self.state, self._site
        if not site.joined or site.averaging or done.round < site.first or done.pieces:
            yield from super()._offer(done, now)
            return
        s.offers[done.round] = site.own[done.round] = self._composed(done)
        site.averaging = done.round
        left = site.due - now if s.opened == done.round else site.patience
        # The other half of what is left of the round is for the way up, together or alone.
        within = min(MOST_SECONDS, max(LEAST_SECONDS, left / 2))
        spread = min(MOST_SECONDS, max(5 * LEAST_SECONDS, 2 * site.patience))
        self._learn_meetings(done)
        parts = 0
        if site.members[0] == s.node:
            yield from self._pace((_member(s.node, done),)) if not site.parts else ()
            parts = site.parts
        average = site_works.AverageInSite(epoch=site.epoch, done=done, within=within, spread_within=spread, parts=parts)
        yield self._work(f"site/{site.epoch}/{done.round}", average, "a difference is ready to be averaged in the site")

    @on(site_works.SitePlanned)
    def heed_plan(self, event: site_works.SitePlanned, now: float) -> None:
        """All cut the next round's steps alike."""
        site = self._site
        if event.epoch == site.epoch:
            site.plan = event.round + 1, event.parts
            if not site.averages_timed:
                site.cost = event.seconds  # one that all get has twice the way to go, in half the bytes

    def _meetings(self, round_: int) -> works.Meetings | None:
        """The averages inside in the midst of a round that is about to begin."""
        site, (planned, parts) = self._site, self._site.plan
        if not site.joined or planned != round_ or parts < 2:
            return None
        within = meeting.patience(site.pace / parts, site.waits, site.failures)
        return works.Meetings(
            epoch=site.epoch, parts=parts, within=within, averaging_within=max(within, SLOWER * site.cost)
        )

    def _learn_meetings(self, done: works.LocalRoundDone) -> None:
        site, met = self._site, done.met
        site.pace = done.seconds
        if met.count:
            site.waits = [*site.waits, met.waited][-WAITS:]
            site.cost, site.averages_timed = met.seconds, True

    def _pace(self, members: tuple[SiteMember, ...]) -> Iterator[Effect]:
        """Of the speaker: decide how often all average in the midst of a round, and say so where it is news."""
        s, site = self.state, self._site
        asked = s.request.site_every if s.request is not None else 0
        parts = meeting.parts(members, site.cost, site.parts, asked)
        if (parts, site.epoch) != (site.parts, site.told):
            site.parts, site.told = parts, site.epoch
            yield self.publish(
                SitePaced(
                    job=s.job,
                    node=s.node,
                    epoch=site.epoch,
                    members=site.members,
                    parts=parts,
                    steps=round(meeting.mean_steps(members) / parts, 2),
                    seconds=site.cost,
                    reason=meeting.why(members, site.cost, parts, asked),
                )
            )

    @on(site_works.SiteAveraged)
    def offer_for_all(self, event: site_works.SiteAveraged, now: float) -> Effects:
        """This node speaks: it has the site's average, and offers it as a contribution of all."""
        s, site = self.state, self._site
        own = site.own.get(event.round)
        if event.epoch != site.epoch or event.round != site.averaging or own is None or event.round not in s.offers:
            yield self._work(f"drop/site/{event.round}", _dropped(event.round), "its nodes have gone alone")
            return
        site.averaging, site.failures = 0, 0
        site.given[event.round] = s.node
        samples = sum(member.samples for member in event.members)
        offer = msgspec.structs.replace(
            own,
            samples=samples,
            steps=_mean([(member.samples, member.steps) for member in event.members]),
            loss=sum(member.loss * member.samples for member in event.members) / max(1, samples),
            encoding=event.encoding,
            key=event.key,
            size=event.size,
            digest=event.digest,
            members=event.members,
        )
        s.offers[event.round] = offer
        yield from self._say(offer)
        yield from self._pace(event.members)
        yield from self._tend_site(now)

    @on(site_works.SiteGiven)
    def leave_it_to_speaker(self, event: site_works.SiteGiven, now: float) -> Effects:
        """The speaker has it; if it has gone meanwhile, this node is on its own after all."""
        site = self._site
        if event.epoch != site.epoch or event.round != site.averaging:
            return
        site.averaging, site.failures = 0, 0
        site.given[event.round] = site.members[0]
        if site.members[0] not in site.nodes:
            yield from self._go_alone(event.round)

    # Going alone.

    @on(site_works.SiteFailed)
    def go_on_alone(self, event: site_works.SiteFailed, now: float) -> Effects:
        """The group is no more: this round everybody sends, and then there may be another group."""
        if event.epoch == self._site.epoch:
            yield from self._part(event.reason, tell=True)
            yield from self._tend_site(now)

    @on(SiteParted)
    def hear_parting(self, event: SiteParted, now: float) -> Effects:
        """Somebody of the group has left it, or a speaker gives back what it was given."""
        s, site = self.state, self._site
        if event.node == s.node:
            return
        if event.round in site.own and site.given.get(event.round) == event.node:
            yield from self._go_alone(event.round)
        elif event.round == 0 and event.epoch == site.epoch and event.node in site.members:
            yield from self._part(f"{event.node}: {event.reason}", tell=False)
            yield from self._tend_site(now)

    def _part(self, reason: str, *, tell: bool) -> Iterator[Effect]:
        """Leave the group; what was being averaged inside goes alone."""
        s, site = self.state, self._site
        epoch, site.epoch, site.joined, site.members = site.epoch, 0, False, ()
        site.failures += 1
        site.rest_until = self._upcoming + (2 ** min(site.failures - 1, LONGEST_REST) if site.failures > 1 else 0)
        yield self._work(f"leave/{epoch}", site_works.LeaveSite(epoch=epoch), reason)
        if tell:
            yield self.publish(SiteParted(job=s.job, node=s.node, epoch=epoch, reason=reason))
        if site.averaging:
            yield from self._go_alone(site.averaging)

    def _go_alone(self, round_: int) -> Iterator[Effect]:
        """Offer this node's own difference for a round, which nobody else sends, or may not."""
        s, site = self.state, self._site
        if site.averaging == round_:
            site.averaging = 0
        own = site.own.pop(round_, None)
        site.given.pop(round_, None)
        if own is not None and round_ in s.offers:
            s.offers[round_] = own
            yield from self._say(own)

    def _take_apart(self, round_: int, reason: str) -> Iterator[Effect]:
        """A site's contribution can't count as it is: each of its nodes sends its own."""
        s = self.state
        yield self.publish(SiteParted(job=s.job, node=s.node, epoch=self._site.epoch, round=round_, reason=reason))
        yield self._work(f"drop/site/{round_}", _dropped(round_), reason)
        yield from self._go_alone(round_)

    def _settle(self, closed: RoundClosed) -> Iterator[Effect]:
        s, site = self.state, self._site
        for round_ in [r for r in site.own if r != site.averaging]:
            listed = {c.node for c in closed.contributions if c.round == round_}
            offer = s.offers.get(round_)
            if s.node in listed or offer is None:
                del site.own[round_]
                if site.given.pop(round_, None) == s.node:
                    yield self._work(f"drop/site/{round_}", _dropped(round_), f"round {closed.round} counted it")
            elif listed.intersection(member.node for member in offer.members):
                others = ", ".join(sorted(listed))
                yield from self._take_apart(round_, f"round {closed.round} counted {others} by itself")
            elif not offer.members and closed.round - round_ >= FORGOTTEN:
                yield from self._go_alone(round_)
        yield from super()._settle(closed)

    def _refused(self, event: ContributionRefused) -> Iterator[Effect]:
        """What this node offered can't count: a site's is taken apart, so that whoever spoilt it is told by its own."""
        offer = self.state.offers.get(event.round)
        if offer is None or event.digest not in ("", offer.digest):
            return
        if offer.members:
            yield from self._take_apart(event.round, event.reason)
        elif event.round not in self._site.own:
            yield from super()._refused(event)

    def _is_said(self, round_: int) -> bool:
        return round_ not in self._site.own or bool(self.state.offers[round_].members)


def _dropped(round_: int) -> works.Drop:
    return works.Drop(tensors=(f"delta/{average_key(round_)}",))


def _member(node: NodeId, done: works.LocalRoundDone) -> SiteMember:
    return SiteMember(node=node, samples=done.samples, steps=done.steps, loss=done.loss, compute_seconds=done.seconds)


def _mean(weighted: list[tuple[int, int]]) -> int:
    """Steps that an average of differences stands for: the mean by samples, at least one."""
    total = sum(weight for weight, _ in weighted)
    return max(1, round(sum(weight * value for weight, value in weighted) / max(1, total)))

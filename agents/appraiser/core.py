"""The appraiser: follows every round of a job, and says of each node whether the job is better off with it.

It decides nothing. All times are those at which words arrive here, by one clock: offers, openings and closings of machines
whose clocks differ can be compared that way, and what a word needs to get here is little beside a round.
"""

import random
from collections.abc import Iterator

import msgspec

from agents.appraiser import words
from agents.appraiser.appraisal import appraise
from agents.appraiser.rounds import Part, RoundSeen, asked_of, stretch
from agents.appraiser.settings import AppraiserSettings
from agents.appraiser.state import OFFERS_KEPT, AppraiserState, Job, Offer, Open
from agents.base import Agent, Effect, Effects, on
from schemas.appraisal import NodesAppraised, NodeValue
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase, JobState
from schemas.training import (
    Assignment,
    Contribution,
    ContributionOffered,
    ContributionReceived,
    Roster,
    RoundClosed,
    RoundOpened,
)

_ENDED_KEPT = 1024
"""Ended jobs remembered: more than the desk keeps, so that no late word brings one back."""


class Appraiser(Agent[AppraiserState]):
    """Tells people what each machine of a job is worth to it."""

    name = "appraiser"

    def __init__(self, settings: AppraiserSettings, rng: random.Random, state: AppraiserState | None = None) -> None:
        super().__init__(state or AppraiserState(), rng)
        self.settings = settings

    # What a job is.

    @on(JobState)
    def follow_job(self, event: JobState, now: float) -> Effects:
        """What it asks for; at its end a last appraisal."""
        job = self._job(event.job)
        if job is None or event.version <= job.state_version:
            return
        job.state_version, job.request = event.version, event.request
        if event.state is JobPhase.FINISHING or event.state.ended:
            self._conclude(job, now)
            if job.seen and job.appraised < job.closed:
                yield from self._appraise(event.job, job, last=True)
        if event.state.ended:
            del self.state.jobs[event.job]
            self.state.ended[event.job] = None
            while len(self.state.ended) > _ENDED_KEPT:
                del self.state.ended[next(iter(self.state.ended))]

    @on(Roster)
    def follow_roster(self, event: Roster, now: float) -> None:
        """Who takes part, and who may reduce."""
        job = self._job(event.job)
        if job is not None and (job.roster is None or event.version > job.roster.version):
            job.roster = event
            job.offers = {node: offers for node, offers in job.offers.items() if node in event.nodes}

    @on(Assignment)
    def follow_assignment(self, event: Assignment, now: float) -> None:
        """Who does how much."""
        job = self._job(event.job)
        if job is not None and event.version > job.assignment_version:
            job.assignment_version, job.length = event.version, event.length
            regular = {node: share for node, share in event.shares.items() if share.every == 1}
            job.work = {node: float(share.microbatch * share.local_steps) for node, share in regular.items()}

    @on(NodesAppraised)
    def adopt(self, event: NodesAppraised, now: float) -> None:
        """What an earlier life said: versions go on from there."""
        job = self._job(event.job)
        if job is not None and (job.said is None or event.version > job.said.version):
            job.said = event

    # A round.

    @on(RoundOpened)
    def see_opening(self, event: RoundOpened, now: float) -> Effects:
        """The last round is over, and all that it took is known."""
        job = self._job(event.job)
        if job is None or event.round <= job.closed:
            return
        present = job.open
        if present is not None and present.round == event.round:
            if event.term > present.term:
                present.term, present.reducer, present.opened_at = event.term, event.node, now
                present.deadline, present.expected = event.deadline_seconds, event.expected
            return  # prolonged, or opened again: the deadline that counts is the first
        self._conclude(job, now)
        job.first = event.round if job.first is None else job.first
        job.open = Open(
            round=event.round,
            began_at=now,
            opened_at=now,
            first=event.node,
            reducer=event.node,
            term=event.term,
            deadline=event.deadline_seconds,
            expected=event.expected,
        )
        if job.seen and job.seen[-1].number - job.appraised >= self.settings.every:
            yield from self._appraise(event.job, job)

    @on(ContributionOffered)
    def see_offer(self, event: ContributionOffered, now: float) -> None:
        """A contribution is ready. One that is offered again began its way at the first offer."""
        job = self._job(event.job)
        if job is None:
            return
        figures = [(event.node, event.compute_seconds, event.samples)]
        if event.members:  # one travels for all
            figures = [(member.node, member.compute_seconds, member.samples) for member in event.members]
        for node, compute, samples in figures:
            size = event.size if node == event.node else 0
            self._note(job, node, event.round, Offer(offered_at=now, compute=compute, samples=samples, size=size))

    def _note(self, job: Job, node: NodeId, round_: int, offer: Offer) -> None:
        mine = job.offers.setdefault(node, {})
        mine.setdefault(round_, offer)
        for old in sorted(mine)[:-OFFERS_KEPT]:
            del mine[old]

    @on(ContributionReceived)
    def see_arrival(self, event: ContributionReceived, now: float) -> None:
        """The reducer has it."""
        job = self._job(event.job)
        offer = job.offers.get(event.contributor, {}).get(event.round) if job is not None else None
        if offer is not None and offer.received_at is None:
            offer.received_at = now
            offer.up = event.seconds if event.carried else 0.0

    @on(RoundClosed)
    def see_close(self, event: RoundClosed, now: float) -> None:
        """What counted."""
        job = self._job(event.job)
        if job is None or event.round <= job.closed:
            return
        job.closed = event.round
        if job.open is not None and job.open.round == event.round and job.roster is not None:
            job.open.seen = self._seen(job, job.open, event, now)
        for part in event.contributions:
            job.offers.get(part.node, {}).pop(part.round, None)

    def _seen(self, job: Job, opened: Open, event: RoundClosed, now: float) -> RoundSeen:
        parts = tuple(self._part(job, opened, part, now) for part in event.contributions)
        prompt = {part.node for part in parts if part.late == 0}
        waited_for = [node for node in opened.expected if node in prompt or node in event.missing]
        roster, request = job.roster, job.request
        assert roster is not None
        rounds = request is None or request.sync != "async"  # else nobody waits, and nobody's work sizes another's
        if not rounds:
            parts = tuple(msgspec.structs.replace(part, arrived=0.0) for part in parts)
        return RoundSeen(
            number=event.round,
            seconds=now - opened.began_at,
            members=tuple(sorted({*roster.nodes, *prompt})),
            parts=parts,
            missing=event.missing,
            waited_for=tuple(waited_for),
            deadline=opened.deadline,
            quorum=roster.quorum,
            reducer=event.reducer,
            heirs=tuple(node for node in roster.reducers if node != event.reducer),
            average_size=event.average.size,
            stretch=stretch(job.work, asked_of(request, job.length)) if request is not None and rounds else {},
            lost=opened.opened_at - opened.began_at,
            lost_by=opened.first if opened.first != opened.reducer else "",
        )

    def _part(self, job: Job, opened: Open, part: Contribution, now: float) -> Part:
        offer = job.offers.get(part.node, {}).get(part.round)
        arrived = offer.received_at or offer.offered_at if offer is not None else opened.opened_at
        return Part(
            node=part.node,
            samples=float(part.samples) if part.scale > 0 else 0.0,
            late=part.late,
            arrived=min(now - opened.opened_at, max(0.0, arrived - opened.opened_at)),
            compute=offer.compute if offer is not None else 0.0,
            up=offer.up if offer is not None else 0.0,
            size=offer.size if offer is not None else 0,
        )

    def _conclude(self, job: Job, now: float) -> None:
        """The round that closed last lasted until now; not one after which others did whose openings were not heard of."""
        opened, job.open = job.open, None
        if opened is None or opened.seen is None or opened.round == job.first or opened.round < job.closed:
            return
        job.seen.append(msgspec.structs.replace(opened.seen, seconds=now - opened.began_at))
        most = max(self.settings.least_rounds, self.settings.parts_kept // max(1, len(opened.seen.members)))
        del job.seen[: -min(self.settings.rounds_kept, most)]

    # Saying.

    def _appraise(self, name: JobId, job: Job, last: bool = False) -> Iterator[Effect]:
        found = appraise(job.seen, self.rng, self.settings.least_rounds)
        job.appraised = job.seen[-1].number
        nodes = sorted(found.nodes, key=lambda one: (-one.without, one.node))[: self.settings.nodes_told]
        if not (last or _news(job.said, nodes, self.settings.news)):
            return
        job.said = NodesAppraised(
            job=name,
            version=job.said.version + 1 if job.said is not None else 1,
            round=job.appraised,
            rounds=found.rounds,
            samples_per_second=found.samples_per_second,
            nodes=tuple(sorted(nodes, key=lambda one: one.node)),
            reason=words.fleet(found.nodes),
        )
        yield self.publish(job.said)

    def _job(self, name: JobId) -> Job | None:
        """What is known of a job; None for one that is over."""
        if name in self.state.ended:
            return None
        if name not in self.state.jobs:
            if len(self.state.jobs) >= self.settings.jobs_kept:
                del self.state.jobs[next(iter(self.state.jobs))]
            self.state.jobs[name] = Job()
        return self.state.jobs[name]

    def check(self) -> None:
        """What is kept is bounded, and rounds follow each other."""
        self.require(len(self.state.jobs) <= self.settings.jobs_kept, "too many jobs are followed")
        for name, job in self.state.jobs.items():
            numbers = [each.number for each in job.seen]
            self.require(numbers == sorted(set(numbers)), f"{name}: a round is counted twice")
            self.require(len(numbers) <= self.settings.rounds_kept, f"{name}: too many rounds are kept")
            self.require(all(len(mine) <= OFFERS_KEPT for mine in job.offers.values()), f"{name}: too many offers are kept")


def _news(said: NodesAppraised | None, nodes: list[NodeValue], enough: float) -> bool:
    """Whether anybody would want to hear it."""
    if all(one.verdict == "early" for one in nodes):
        return False
    before = {one.node: one for one in said.nodes} if said is not None else {}
    if before.keys() != {one.node for one in nodes}:
        return True
    return any(
        one.verdict != before[one.node].verdict or abs(one.without - before[one.node].without) > enough for one in nodes
    )

"""When a round closes with whoever is there, learned from how long each node takes from a round's opening on.

A node's arrivals (seconds from `RoundOpened` to the reducer's having its difference, both as this agent hears of them) are
kept next to the time that was planned for it, so that they say something of other shares too. What a node needs is a high
quantile of them and a margin that grows with their spread, as TCP's retransmission timeout does (RFC 6298). Nothing
is added for what might be: what messages, closings and a busy machine cost is in the arrivals.

A round waits for nobody much longer than for its quorum. A death ends a wait at once, whatever the deadline.
"""

import math
from collections.abc import Mapping
from statistics import median

from agents.batch_controller import learning
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import Arrival, Job, Known, Opening
from schemas.ids import NodeId
from schemas.training import ContributionReceived, RoundClosed, RoundOpened, Share

OPENINGS = 8
"""Rounds whose openings are remembered: what comes later than that is no measure of a round."""

LEAST_ARRIVALS = 4
"""Of a node, before they count for more than the plan: the first has cold caches, and two after it would be chance."""

OVERDUE = 1.5
"""What a node that was not there at a round's closing is taken to need over the round's time, until it comes: as much as a
reducer prolongs a round that lacks a quorum."""


def open_round(job: Job, event: RoundOpened, now: float) -> None:
    """A round is open. Opened by another reducer again, its arrivals say nothing: the wait for that one is in them."""
    known = job.openings.get(event.round)
    if known is None:
        job.openings[event.round] = Opening(reducer=event.node, term=event.term, at=now)
        for old in sorted(job.openings)[:-OPENINGS]:
            del job.openings[old]
    elif (known.reducer, known.term) != (event.node, event.term):
        job.openings[event.round] = Opening(reducer=event.node, term=event.term, at=now, again=True)


def arrive(job: Job, known: Known, event: ContributionReceived, share: Share, now: float, kept: int) -> None:
    """The reducer has a node's difference of a round. The first that travels is no measure: no plan knew what it takes."""
    opening = job.openings.get(event.round)
    if opening is not None and (known.up or not event.carried):
        _note(known, opening, event.round, share, now - opening.at, kept)


def miss(job: Job, known: Known, event: RoundClosed, share: Share, kept: int) -> None:
    """A round was closed without a node that it had waited for: it takes longer than that, nobody knows by how much."""
    opening = job.openings.get(event.round)
    if opening is not None and known.up:
        _note(known, opening, event.round, share, OVERDUE * event.seconds, kept)


def another_link(known: Known) -> None:
    """The link has changed: a few arrivals over the old one stand until as many new ones outvote them."""
    del known.arrivals[:-LEAST_ARRIVALS]


def _note(known: Known, opening: Opening, round_: int, share: Share, took: float, kept: int) -> None:
    step = learning.step_seconds(known, share.microbatch)
    if step is None or opening.again or share.every > 1:
        return
    planned = share.local_steps * step + known.planned_transfer
    known.arrivals = [old for old in known.arrivals if old.round != round_]
    known.arrivals.append(Arrival(round=round_, planned=planned, took=took))
    del known.arrivals[:-kept]


def need(known: Known, planned: float, settings: BatchControllerSettings) -> float:
    """Seconds from a round's opening until a node is there with near certainty, when its share is to take `planned`.

    An arrival under a shorter plan counts as so much later as this one is longer, and a margin: what a node took beyond its
    plan are waits, which don't grow with its share, and time that varies, which does. One under a longer plan counts as the
    larger of in proportion and by so much less. The quantile is the nearest rank's; with fewer than ten the largest.
    """
    if len(known.arrivals) < LEAST_ARRIVALS:
        return settings.deadline_factor * planned + settings.deadline_floor
    taken = sorted(_moved(arrival, planned, settings) for arrival in known.arrivals)
    high = taken[math.ceil(settings.deadline_quantile * len(taken)) - 1]
    return high + max(settings.deadline_margin * high, high - median(taken)) + settings.deadline_timeout


def _moved(arrival: Arrival, planned: float, settings: BatchControllerSettings) -> float:
    more = planned - arrival.planned
    if more > 0:
        return arrival.took + more * (1.0 + settings.deadline_margin)
    return max(arrival.took + more, arrival.took * planned / arrival.planned)


def deadline(
    planned: Mapping[NodeId, float], known: Mapping[NodeId, Known], quorum: int, settings: BatchControllerSettings
) -> float:
    """Seconds after its opening that a round closes with whoever is there; `planned`: of those it waits for.

    Long enough for each of them, but for no more than `deadline_patience` times what a quorum needs.
    """
    needs = sorted(need(known[name], seconds, settings) for name, seconds in planned.items())
    enough = needs[min(len(needs), max(1, quorum)) - 1]
    return min(needs[-1], settings.deadline_patience * enough)

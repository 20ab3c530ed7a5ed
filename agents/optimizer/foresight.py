"""What the policy `proactive` adds to `reactive`: rounds planned with links as they are about to be.

`reactive` believes in the last uploads, as the batch controller does (`agents.batch_controller.learning`), `proactive` in
the forecast. Which of the two does better is measured (`agents.optimizer.turns`).
"""

from collections.abc import Mapping
from statistics import median, median_low

from agents.optimizer import turns
from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import LinkSeen, Run
from schemas.decisions import ForesightJudged
from schemas.ids import JobId, NodeId
from schemas.network import LinkAhead, LinkForecast, LinkQuality
from schemas.training import ContributionReceived, Foreseen, RoundClosed

RATES = 5
"""Uploads that a rate is the median of, as the batch controller takes it."""

DIFFERENT = 1.25
"""Factor between two rates from which a plan differs: `drift` of the batch controller, which ignores less."""

LOOK_AT = 0.6
"""Part of a round after which the next one is planned: time enough for the order to arrive before it opens."""

UPLOAD_FROM, UPLOAD_TO = 0.5, 1.1
"""Parts of a round between which its uploads are under way. The worst of that time counts: what is reserved too much is one
node's loss, what lacks is everybody's."""

TYPICAL = 5
"""Rounds whose median is a round's usual length."""

GRADES = tuple(LinkQuality)
"""Best first."""


def round_seconds(run: Run) -> float:
    """A round's usual length; 0 before the first."""
    return median(seen.seconds for seen in run.seen[-TYPICAL:]) if run.seen else 0.0


# Links.


def regrade(link: LinkSeen, quality: LinkQuality) -> None:
    """A link has another grade: what its uploads carried before is no guide any more once there is one under it."""
    if link.quality is not quality:
        link.quality, link.fresh = quality, 0


def hear(link: LinkSeen, event: LinkForecast, now: float) -> None:
    """A forecast, or its withdrawal."""
    if event.version > link.version:
        link.version, link.event, link.ahead = event.version, event.id, event.ahead
        link.heard, link.until, link.period = now, now + event.until_seconds, event.period_seconds


def measure(link: LinkSeen, event: ContributionReceived, now: float) -> None:
    """An upload's rate, remembered by what the link was expected to be when it was under way."""
    rate = event.carried / event.seconds
    link.rates = [*link.rates[-(RATES - 1) :], rate]
    link.fresh = min(link.fresh + 1, RATES)
    ahead = expected(link, now - event.seconds, now)
    grade = (ahead.quality if ahead is not None else link.quality or LinkQuality.GOOD).value
    link.by_grade[grade] = [*link.by_grade.get(grade, [])[-(RATES - 1) :], rate]


def expected(link: LinkSeen, begin: float, end: float) -> LinkAhead | None:
    """The worst that a forecast says of a time, from `begin` to `end`; None where none stands for it."""
    if not link.ahead or not link.heard <= end < link.until:
        return None
    parts = [part for part in link.ahead if link.heard + part.from_seconds < end]
    begun = [part for part in parts if link.heard + part.from_seconds <= begin]
    parts = parts[max(0, len(begun) - 1) :] or [link.ahead[0]]
    return max(parts, key=lambda part: (GRADES.index(part.quality), -(part.rate or 0.0)))


def measured_rate(link: LinkSeen) -> float | None:
    """What `reactive` believes in: the median of the last uploads, of those under the present grade if there are any."""
    rates = link.rates[-link.fresh :] if link.fresh else link.rates
    return median_low(rates) if rates else None


def forecast_rate(link: LinkSeen, ahead: LinkAhead) -> float | None:
    """What `proactive` believes in: the rate foreseen, or what was measured when the link was like that."""
    if ahead.rate is not None:
        return ahead.rate
    rates = link.by_grade.get(ahead.quality.value)
    return median_low(rates) if rates else None


# Plans.


def look_ahead(run: Run, links: Mapping[NodeId, LinkSeen], now: float) -> tuple[Foreseen, ...]:
    """Plan the round after the open one; gives the links that are to be planned otherwise than as they were measured.

    A link whose rate was never measured is left alone, as is one that was never measured when it was as it is foreseen.
    """
    seconds = round_seconds(run)
    opens = now + seconds * (1.0 - LOOK_AT)
    before = {foreseen.node: foreseen for foreseen in run.plans.foreseen}
    found: list[Foreseen] = []
    for node in sorted(run.shares):
        link = links.get(node)
        ahead = expected(link, opens + UPLOAD_FROM * seconds, opens + UPLOAD_TO * seconds) if link is not None else None
        if link is None or ahead is None:
            continue
        usual, then = measured_rate(link), forecast_rate(link, ahead)
        if usual is None or then is None or (ahead.quality is link.quality and not _differ(usual, then)):
            continue
        new = Foreseen(node=node, quality=ahead.quality, rate=float(f"{then:.2g}"))
        old = before.get(node)
        found.append(old if old is not None and _alike(old, new) else new)
    return tuple(found)


def _differ(one: float, other: float) -> bool:
    return max(one, other) > DIFFERENT * min(one, other)


def _alike(old: Foreseen, new: Foreseen) -> bool:
    return old.quality is new.quality and not _differ(old.rate, new.rate)


# What comes of them.


def settle(
    job: JobId, run: Run, links: Mapping[NodeId, LinkSeen], event: RoundClosed, now: float, settings: OptimizerSettings
) -> ForesightJudged | None:
    """A round has closed: it counts for the turn that is open, and may end it; the word on what was found then."""
    plans = run.plans
    seconds, plans.closed_at = now - plans.closed_at if plans.closed_at else event.seconds, now
    if not plans.turns or plans.turns[-1].closed:
        return None
    turns.count(plans, event, seconds, run.efficiency, settings)
    plans.judged += 1
    period = max([0.0, *(links[node].period for node in run.shares if node in links)])
    if not turns.over(plans, period, settings):
        return None
    if not plans.turns[-1].foreseen:
        turns.drop_turn(plans)
        return None
    plans.turns[-1].closed = True
    plans.acting = turns.acts_next(plans, settings)
    judged = judgement(job, run, settings)
    turns.open_turn(plans, run.round)
    return judged


def judgement(job: JobId, run: Run, settings: OptimizerSettings) -> ForesightJudged:
    """How acting on forecasts has done in a job so far, and what is done next."""
    plans = run.plans
    plans.told = plans.judged
    regret, error = turns.regret(plans, settings)
    verb = "lost" if regret > 0 else "gained"
    text = (
        f"acting on forecasts has {verb} {abs(regret):.1f} s of {plans.acted:.0f} s (standard error {error:.1f} s) "
        f"against doing as reactive does, by turns"
    )
    return ForesightJudged(
        job=job,
        round=run.round,
        rounds=plans.judged,
        proactive_seconds=round(plans.acted, 3),
        reactive_seconds=round(plans.acted - regret, 3),
        regret_seconds=round(regret, 3),
        error_seconds=round(error, 3),
        acting=plans.acting,
        reason=f"{'acts' if plans.acting else 'does as reactive does'} now: {text}",
    )


def in_words(found: tuple[Foreseen, ...], before: tuple[Foreseen, ...]) -> str:
    """`the link of a is about to be poor`."""
    parts = [f"the link of {each.node} is about to be {each.quality.value}" for each in found if each not in before]
    gone = [each.node for each in before if each.node not in {other.node for other in found}]
    parts += [f"the link of {node} is as it was foreseen" for node in gone]
    more = len(parts) - 3
    return ", ".join(parts[:3]) + (f", and {more} more" if more > 0 else "")


def replaced(run: Run, found: tuple[Foreseen, ...]) -> str:
    """Take what is foreseen now; gives what changes for those who act on it, in words."""
    plans = run.plans
    before, plans.foreseen = plans.foreseen, found
    if found and (not plans.turns or plans.turns[-1].closed):
        turns.open_turn(plans, run.round)
    if found:
        plans.turns[-1].foreseen = True
    return in_words(found, before) if plans.acting and found != before else ""

"""What the policy `proactive` adds to `reactive`: rounds planned with links as they are about to be, and what came of it.

Both plans are made for every round, and both are judged by the uploads that came, whichever was followed. A plan reserves
for each node's upload the time that it takes at the rate the plan believes in. What is reserved isn't computed in, by one
node of n; what is lacking everybody waits for:

    cost of a plan in seconds of rounds = largest of (t - r) over its nodes, at least 0  +  sum of r over its nodes / n

with r = bytes / rate believed and t = seconds it took. The bytes are those that were sent: what a finer or coarser encoding
is worth isn't counted, for either plan. `reactive` believes in the last uploads, as the batch controller does
(`agents.batch_controller.learning`), `proactive` in the forecast. Only nodes that the two plans differ in count.
"""

from collections.abc import Mapping
from statistics import median, median_low

from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import Bet, LinkSeen, Plans, Run, Wager
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

WAGERS = 3
"""Rounds planned and not closed that are remembered: one is open, one comes next, one may be taken over."""

MOST_DOUBLINGS = 3

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
        link.heard, link.until = now, now + event.until_seconds


def measure(link: LinkSeen, event: ContributionReceived, now: float) -> None:
    """An upload's rate, remembered by what the link was expected to be when it was under way."""
    rate = event.carried / event.seconds
    link.rates = [*link.rates[-(RATES - 1) :], rate]
    link.fresh = min(link.fresh + 1, RATES)
    link.size = event.size
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
    """Plan the round after the open one both ways, and remember both; gives the links that are to be planned otherwise.

    A link whose rate one of the plans can't tell is left alone: what couldn't be judged isn't done.
    """
    seconds = round_seconds(run)
    opens = now + seconds * (1.0 - LOOK_AT)
    before = {foreseen.node: foreseen for foreseen in run.plans.foreseen}
    bets: dict[NodeId, Bet] = {}
    found: list[Foreseen] = []
    for node in sorted(run.shares):
        link = links.get(node)
        ahead = expected(link, opens + UPLOAD_FROM * seconds, opens + UPLOAD_TO * seconds) if link is not None else None
        if link is None or ahead is None:
            continue
        usual, then = measured_rate(link), forecast_rate(link, ahead)
        if usual is None or then is None or (ahead.quality is link.quality and not _differ(usual, then)):
            continue
        bets[node] = Bet(reactive=usual, proactive=then)
        new = Foreseen(node=node, quality=ahead.quality, rate=float(f"{then:.2g}"))
        old = before.get(node)
        found.append(old if old is not None and _alike(old, new) else new)
    if bets:
        run.plans.wagers = [*run.plans.wagers[-(WAGERS - 1) :], Wager(round=run.round + 2, bets=bets)]
    return tuple(found)


def _differ(one: float, other: float) -> bool:
    return max(one, other) > DIFFERENT * min(one, other)


def _alike(old: Foreseen, new: Foreseen) -> bool:
    return old.quality is new.quality and not _differ(old.rate, new.rate)


def note_upload(run: Run, event: ContributionReceived) -> None:
    """How long an upload took that was planned."""
    for wager in run.plans.wagers:
        bet = wager.bets.get(event.contributor)
        if wager.round == event.round and bet is not None:
            bet.size, bet.seconds = event.carried, event.seconds


def cost(wager: Wager, nodes: int, seconds: float, *, proactive: bool) -> float:
    """What a plan has cost, in seconds of rounds; see the module's docstring. No upload counts more than a round."""
    over, reserved = 0.0, 0.0
    for bet in wager.bets.values():
        if bet.seconds > 0:
            planned = min(bet.size / (bet.proactive if proactive else bet.reactive), seconds)
            over = max(over, min(bet.seconds, seconds) - planned)
            reserved += planned
    return over + reserved / max(nodes, 1)


def settle(
    job: JobId, run: Run, links: Mapping[NodeId, LinkSeen], event: RoundClosed, settings: OptimizerSettings
) -> ForesightJudged | None:
    """A planned round has closed: compare the plans, step back or try again; the word on it when it is due."""
    plans, seconds = run.plans, round_seconds(run)
    wager = next((each for each in plans.wagers if each.round == event.round), None)
    plans.wagers = [each for each in plans.wagers if each.round > event.round]
    if wager is None:
        return None
    for node in event.missing:
        link, bet = links.get(node), wager.bets.get(node)
        if bet is not None and link is not None and bet.seconds == 0:  # it is still on its way: a round at least
            bet.size, bet.seconds = link.size, seconds
    if not any(bet.seconds > 0 for bet in wager.bets.values()):
        return None
    ahead, behind = (cost(wager, len(run.shares), seconds, proactive=which) for which in (True, False))
    plans.judged += 1
    plans.proactive_seconds += ahead
    plans.reactive_seconds += behind
    plans.lost = settings.foresight_memory * plans.lost + ahead - behind
    plans.stake = settings.foresight_memory * plans.stake + seconds
    words = _step(run, settings)
    if not words and plans.judged - plans.told < settings.foresight_every:
        return None
    return judgement(job, run, words)


def _step(run: Run, settings: OptimizerSettings) -> str:
    """Step back or forward, in words; empty where nothing changes."""
    plans = run.plans
    if plans.acting:
        if plans.judged < settings.foresight_least or plans.lost <= settings.foresight_limit * plans.stake:
            return ""
        plans.acting = False
        plans.until = run.round + _pause(plans, settings)
        return f"steps back to reactive until round {plans.until}"
    if run.round < plans.until:
        return ""
    if plans.lost > 0:
        plans.until = run.round + _pause(plans, settings)
        return f"stays with reactive until round {plans.until}"
    plans.acting, plans.lost, plans.stake = True, 0.0, 0.0
    return "acts on forecasts again, which would have done better of late"


def _pause(plans: Plans, settings: OptimizerSettings) -> int:
    """Rounds to stay back: doubling, up to 8 times."""
    plans.losses += 1
    return int(settings.foresight_pause * 2 ** min(plans.losses - 1, MOST_DOUBLINGS))


def judgement(job: JobId, run: Run, words: str = "") -> ForesightJudged:
    """How forecasts have done in a job so far."""
    plans = run.plans
    plans.told = plans.judged
    regret = plans.proactive_seconds - plans.reactive_seconds
    verb = "lost" if regret > 0 else "gained"
    text = (
        f"forecasts {verb} {abs(regret):.1f} s of rounds in {plans.judged} that they mattered in: "
        f"{plans.proactive_seconds:.1f} s for transfers, {plans.reactive_seconds:.1f} s by what was measured last"
    )
    return ForesightJudged(
        job=job,
        round=run.round,
        rounds=plans.judged,
        proactive_seconds=round(plans.proactive_seconds, 3),
        reactive_seconds=round(plans.reactive_seconds, 3),
        regret_seconds=round(regret, 3),
        acting=plans.acting,
        reason=f"{words}: {text}" if words else text,
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
    before, run.plans.foreseen = run.plans.foreseen, found
    return in_words(found, before) if run.plans.acting and found != before else ""

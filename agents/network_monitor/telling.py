"""A forecast put together for others: what the link will be like for how long, in the figures that decisions go by."""

from collections.abc import Iterator, Sequence
from statistics import fmean, median

import msgspec

from agents.network_monitor import forecast, judge, policy, words
from agents.network_monitor.links import lost, outages
from agents.network_monitor.outlook import COARSE, FINE, LOSS_LEVELS, Bins, Scale, expected
from agents.network_monitor.settings import NetworkMonitorSettings
from agents.network_monitor.state import Link
from schemas.network import LinkAhead, LinkForecast, LinkQuality

SAME = 12
"""Levels within which bins count as one stretch of time: a factor of two, as from one grade to the next."""

LOSS_PRIOR = 30
"""Probes that the loss known so far counts for, beside those of a stretch: `loss_prior` for the same reason."""

PROBES = 5
"""To a fine bin, at one a second."""


class Stretch(msgspec.Struct):
    """Bins ahead in which a link is expected to stay as it is."""

    first: int
    """Bins ahead at which it begins, 1 for the next."""
    round_trip: list[float]
    rate: list[float]
    places: list[int]
    """Where the same bins of earlier periods stand."""


def scale_told(link: Link) -> tuple[Bins, Scale] | None:
    """The scale whose forecasts are to be told: the finer one that has earned it."""
    outlook = link.outlook
    for bins, scale in ((outlook.fine, FINE), (outlook.coarse, COARSE)):
        if bins is not None and _method(bins) != "none":
            return bins, scale
    return None


def tell(link: Link, bins: Bins, scale: Scale, settings: NetworkMonitorSettings, now: float) -> tuple[LinkAhead, ...]:
    """The stretches ahead, soonest first; empty where the link is expected to stay as it is."""
    ahead = tuple(_figures(link, bins, stretch, scale, settings, now) for stretch in _stretches(bins, scale))
    return ahead if len(ahead) > 1 or any(entry.quality is not link.quality for entry in ahead) else ()


def message(link: Link, bins: Bins, scale: Scale, ahead: tuple[LinkAhead, ...]) -> LinkForecast:
    """The forecast as it is told, with its record."""
    records = (bins.round_trip.record, bins.rate.record)
    method = _method(bins)
    period = (bins.round_trip.period or bins.rate.period) * scale.seconds if method == "recurring" else 0.0
    made, right = sum(record.made for record in records), sum(record.right for record in records)
    gain = max(judge.gain(record) for record in records)
    how = f"it recurs every {words.seconds(period)}" if period else "so goes its trend"
    changes = [
        f"{entry.quality.value} ({words.milliseconds(entry.latency_ms)}) in {words.seconds(entry.from_seconds)}"
        for entry in ahead[:3]
    ]
    return LinkForecast(
        node=link.node,
        version=link.outlook.version,
        method=method,
        period_seconds=round(period, 1),
        until_seconds=scale.seconds * scale.reach,
        ahead=ahead,
        made=made,
        right=right,
        gain=round(gain, 3),
        reason=f"{', then '.join(changes)}: {how}; {right} of {made} forecasts were right",
    )


def taken_back(link: Link, why: str) -> LinkForecast:
    """The word that the last forecast no longer stands."""
    return LinkForecast(node=link.node, version=link.outlook.version, method="none", reason=why)


def _method(bins: Bins) -> judge.Method:
    for series in (bins.round_trip, bins.rate):
        believed = series.record.believed
        if believed == "trend" or (believed == "recurring" and series.period):
            return believed
    return "none"


def _stretches(bins: Bins, scale: Scale) -> Iterator[Stretch]:
    """The bins ahead, those that are alike put together."""
    stretch: Stretch | None = None
    period = bins.round_trip.period or bins.rate.period
    for steps in range(1, scale.reach + 1):
        round_trip, rate = expected(bins.round_trip, steps), expected(bins.rate, steps)
        places = forecast.places_of(len(bins.loss), period, steps) if period else []
        if stretch is not None and _alike(stretch.round_trip, round_trip) and _alike(stretch.rate, rate):
            stretch.round_trip.append(round_trip)
            stretch.rate.append(rate)
            stretch.places += places
            continue
        if stretch is not None:
            yield stretch
        stretch = Stretch(steps, [round_trip], [rate], places)
    if stretch is not None:
        yield stretch


def _alike(levels: Sequence[float], level: float) -> bool:
    known = [each for each in levels if each]
    return not known or not level or abs(level - known[0]) < SAME


def _figures(
    link: Link, bins: Bins, stretch: Stretch, scale: Scale, settings: NetworkMonitorSettings, now: float
) -> LinkAhead:
    """Round trip and rate as forecast; jitter and loss as they were in the same places of earlier periods, else as now."""
    level = _middle(stretch.round_trip)
    half = judge.width(bins.round_trip.record)
    low, usual, high = (forecast.value_of(value, forecast.LATENCY_UNIT_MS) for value in (level - half, level, level + half))
    jitter, loss = link.estimate.jitter_ms, lost(link, settings)
    steps = [bins.jitter[place] for place in stretch.places if bins.jitter[place]]
    losses = [bins.loss[place] for place in stretch.places if bins.loss[place]]
    if steps:
        jitter = forecast.value_of(fmean(steps), forecast.LATENCY_UNIT_MS)
    if losses:
        probes = PROBES * len(losses) * scale.seconds / FINE.seconds
        loss = (loss * LOSS_PRIOR + probes * (fmean(losses) - 1) / LOSS_LEVELS) / (LOSS_PRIOR + probes)
    rate = _middle(stretch.rate) if bins.rate.record.believed != "none" else 0.0
    return LinkAhead(
        from_seconds=(stretch.first - 1) * scale.seconds,
        quality=_grade(link, usual, jitter, loss, settings, now),
        latency_ms=round(usual, 1),
        latency_low_ms=round(low, 1),
        latency_high_ms=round(high, 1),
        loss=round(min(1.0, loss), 4),
        rate=round(forecast.value_of(rate, forecast.RATE_UNIT)) if rate else None,
    )


def _middle(levels: Sequence[float]) -> float:
    known = [level for level in levels if level]
    return float(median(known)) if known else 0.0


def _grade(
    link: Link, rtt_ms: float, jitter_ms: float, loss: float, settings: NetworkMonitorSettings, now: float
) -> LinkQuality:
    """The grade that such figures would come to, with the same margin that any change of it needs."""
    score = (
        policy.latency_points(rtt_ms, settings)
        + policy.loss_points(loss, settings)
        + policy.steadiness_points(jitter_ms, settings)
        + policy.availability_points(1.0, outages(link, settings, now))
    )
    if link.quality is None or link.quality is LinkQuality.OFFLINE:
        return policy.grade_of(score, settings)
    return policy.pull(score, link.quality, settings.margin, settings)

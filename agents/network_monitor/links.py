"""One link as a whole: its score, its outages, whether it flaps, and what must always hold of it."""

from agents.network_monitor import policy
from agents.network_monitor.estimate import MOST_HELD, answered, loss
from agents.network_monitor.settings import NetworkMonitorSettings
from agents.network_monitor.state import SENT_AGAIN, UNANSWERED, Link
from schemas.network import LinkQuality

MOST_OUTAGES = 1000.0
"""More than this makes no difference to a score."""

TURNS_KEPT = 32
"""Turns remembered at most: as many as may make a link flap."""


def lost(link: Link, settings: NetworkMonitorSettings) -> float:
    """Fraction of probes lost, 0 to 1."""
    return loss(link.estimate, settings.loss_prior)


def score_of(link: Link, settings: NetworkMonitorSettings, now: float) -> float:
    """0 to 100: latency 40, loss 30, reliability 30. A round trip counts only as far as probes are answered at all."""
    estimate = link.estimate
    heard = answered(estimate, settings.loss_prior)
    return (
        policy.latency_points(estimate.smoothed_ms, settings) * heard
        + policy.loss_points(lost(link, settings), settings)
        + policy.steadiness_points(estimate.jitter_ms, settings) * heard
        + policy.availability_points(heard, outages(link, settings, now))
    )


def outages(link: Link, settings: NetworkMonitorSettings, now: float) -> float:
    """Outages so far, each halved every half-life."""
    if link.outages == 0.0:
        return 0.0
    return float(link.outages * 0.5 ** (max(0.0, now - link.outages_at) / settings.outage_half_life))


def count_outage(link: Link, weight: float, settings: NetworkMonitorSettings, now: float) -> None:
    """One more outage, or a part of one."""
    link.outages = min(MOST_OUTAGES, outages(link, settings, now) + weight)
    link.outages_at = now


def count_change(
    link: Link, previous: LinkQuality, quality: LinkQuality, settings: NetworkMonitorSettings, now: float
) -> None:
    """The grade changed now. Several steps in one direction are one movement; only a turn is a sign of flapping."""
    rises = policy.rank(quality) < policy.rank(previous)
    if link.rises is not None and rises != link.rises:
        recent = [at for at in link.turns if now - at < settings.flap_seconds]
        link.turns = [*recent, now][-TURNS_KEPT:]
    link.rises = rises


def flapping(link: Link, settings: NetworkMonitorSettings, now: float) -> bool:
    """Whether the grade has gone to and fro too often of late."""
    return sum(now - at < settings.flap_seconds for at in link.turns) >= settings.flap_turns


DEMANDS = (
    "history longer than its window",
    "unanswered probes miscounted",
    "late probes miscounted",
    "too many late answers held",
    "loss is no fraction",
    "a negative round trip",
    "score out of range",
    "too many scores kept",
    "too many turns kept",
    "a lasting fall wasn't told",
    "a lasting rise wasn't told",
    "a grade goes with a version",
    "nobody would notice its silence",
)
"""What `faults` finds broken, in its order."""


def faults(link: Link, settings: NetworkMonitorSettings) -> list[str]:
    """What is wrong with a link's state, in words; nothing, if all is well."""
    estimate, history = link.estimate, link.estimate.history
    holds = (
        len(history) <= settings.window,
        estimate.unanswered == history.count(UNANSWERED),
        estimate.sent_again == history.count(SENT_AGAIN),
        len(estimate.held) < MOST_HELD,
        0 <= lost(link, settings) <= 1,
        estimate.smoothed_ms >= 0 and min(estimate.deviation_ms, estimate.jitter_ms) >= 0,
        not [score for score in link.scores if not -1e-9 <= score <= 100 + 1e-9],
        len(link.scores) <= settings.trend_window,
        len(link.turns) <= TURNS_KEPT,
        -settings.dwell_worse < link.crossing,
        link.crossing < settings.dwell_better * settings.flap_dwell,
        (link.version == 0) == (link.quality is None),
        link.quality is LinkQuality.OFFLINE or link.watched,
    )
    return [] if all(holds) else [what for held, what in zip(holds, DEMANDS, strict=True) if not held]

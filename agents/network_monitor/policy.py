"""From figures to a score, from scores to a grade and a trend.

Where the emulated profiles land with the default settings (round trip uniform in its range, a lost packet costs a
retransmission time-out; figures of `tests/agents/test_network_monitor_profiles.py`):

| profile  | round trip | loss   | score, about | grade     |
|----------|------------|--------|--------------|-----------|
| perfect  | 0-1 ms     | 0 %    | 98           | excellent |
| good     | 10-50 ms   | 0.1 %  | 83           | good      |
| average  | 50-150 ms  | 1 %    | 68           | fair      |
| poor     | 150-300 ms | 5 %    | 45           | poor      |
| unstable | 50-500 ms  | 10 %   | 20           | critical  |
"""

import math
from typing import Literal

from agents.network_monitor.settings import NetworkMonitorSettings
from schemas.network import LinkQuality

Trend = Literal["improving", "stable", "degrading"]

LATENCY_POINTS = 40.0
LOSS_POINTS = 30.0
STEADINESS_POINTS = 20.0
AVAILABILITY_POINTS = 10.0
"""Steadiness and availability together are the 30 of reliability."""

ORDER = tuple(LinkQuality)
"""Best first."""

_RANK = {quality: i for i, quality in enumerate(ORDER)}


def latency_points(rtt_ms: float, settings: NetworkMonitorSettings) -> float:
    """0 to 40: falls with the logarithm of the round trip, since what a round trip costs goes with factors of it."""
    worst = math.log1p(settings.latency_worst_ms / settings.latency_knee_ms)
    return LATENCY_POINTS * max(0.0, 1.0 - math.log1p(rtt_ms / settings.latency_knee_ms) / worst)


def loss_points(loss: float, settings: NetworkMonitorSettings) -> float:
    """0 to 30, in proportion: of a few dozen probes, each that is lost then costs the same."""
    return LOSS_POINTS * max(0.0, 1.0 - loss / settings.loss_worst)


def steadiness_points(jitter_ms: float, settings: NetworkMonitorSettings) -> float:
    """0 to 20, the larger part of reliability: for a round trip that can be counted on."""
    return STEADINESS_POINTS * max(0.0, 1.0 - jitter_ms / settings.jitter_worst_ms)


def availability_points(answered: float, outages: float) -> float:
    """0 to 10, the rest of reliability: for probes that are answered (a fraction), and for no outages in between."""
    return AVAILABILITY_POINTS * answered / (1.0 + outages)


def grade_of(score: float, settings: NetworkMonitorSettings) -> LinkQuality:
    """The grade of a score, without regard to the present one. Never `offline`, which silence alone makes."""
    if score >= settings.excellent_from:
        return LinkQuality.EXCELLENT
    if score >= settings.good_from:
        return LinkQuality.GOOD
    if score >= settings.fair_from:
        return LinkQuality.FAIR
    return LinkQuality.POOR if score >= settings.poor_from else LinkQuality.CRITICAL


def rank(quality: LinkQuality) -> int:
    """0 for excellent to 5 for offline."""
    return _RANK[quality]


def noise(lost: float, probes: int, settings: NetworkMonitorSettings) -> float:
    """Points by which a score wavers because losses are few and random: the binomial's standard deviation."""
    return LOSS_POINTS / settings.loss_worst * math.sqrt(lost * (1.0 - lost) / max(probes, settings.loss_prior))


def pull(score: float, present: LinkQuality, margin: float, settings: NetworkMonitorSettings) -> LinkQuality:
    """Where a score pulls a link of grade `present`: its own grade unless a boundary is crossed by the margin."""
    worse = grade_of(score + margin, settings)
    if rank(worse) > rank(present):
        return worse
    better = grade_of(score - margin, settings)
    return better if rank(better) < rank(present) else present


def trend_of(scores: list[float], settings: NetworkMonitorSettings) -> Trend:
    """Which way the scores go: the least-squares slope over the window, if it is both material and significant."""
    window = scores[-settings.trend_window :]
    n = len(window)
    if n < settings.trend_window // 2:
        return "stable"
    middle = (n - 1) / 2
    mean = math.fsum(window) / n
    spread = n * (n * n - 1) / 12
    slope = math.fsum((i - middle) * (score - mean) for i, score in enumerate(window)) / spread
    if abs(slope) * (n - 1) < settings.trend_points:
        return "stable"
    residual = math.fsum((score - mean - slope * (i - middle)) ** 2 for i, score in enumerate(window))
    error = math.sqrt(residual / (n - 2) / spread)
    if abs(slope) < settings.trend_significance * error:
        return "stable"
    return "improving" if slope > 0 else "degrading"

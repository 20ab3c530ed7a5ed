"""Probes as the five emulated profiles make them land in five different grades, and stay there."""

import random
from collections.abc import Iterator

import pytest

from agents.effects import Publish
from agents.network_monitor import NetworkMonitor, NetworkMonitorSettings, policy
from agents.network_monitor.estimate import loss, observe, timeout_ms
from agents.network_monitor.state import Estimate
from schemas.network import LinkProbed, LinkQuality, LinkQualityChanged

SETTINGS = NetworkMonitorSettings()

PROFILES = {
    # least and greatest round trip in ms, fraction of round trips that lose a packet; the grade
    "perfect": (0.0, 1.0, 0.0, LinkQuality.EXCELLENT),
    "good": (10.0, 50.0, 0.001, LinkQuality.GOOD),
    "average": (50.0, 150.0, 0.01, LinkQuality.FAIR),
    "poor": (150.0, 300.0, 0.05, LinkQuality.POOR),
    "unstable": (50.0, 500.0, 0.10, LinkQuality.CRITICAL),
}


def probes(profile: str, seed: int, count: int) -> Iterator[float | None]:
    """Round trips over a TCP connection on such a link: a lost packet costs time-outs, doubling; a busy host some ms."""
    low, high, lost, _ = PROFILES[profile]
    rng = random.Random(f"{profile}/{seed}")
    timeout = (low + high) / 2 + max(200.0, high - low)
    for _ in range(count):
        rtt_ms = rng.uniform(low, high) + rng.expovariate(1 / 1.5)
        attempt = 0
        while rng.random() < lost:
            rtt_ms += timeout * 2**attempt
            attempt += 1
        yield rtt_ms if rtt_ms < 2000.0 else None


def graded(*parts: tuple[str, int], seed: int) -> list[tuple[int, LinkQualityChanged]]:
    """(second, change) for a link that has these profiles for so many seconds, one after the other."""
    monitor = NetworkMonitor(SETTINGS, random.Random(0))
    changes = []
    second = 0
    for profile, count in parts:
        for rtt_ms in probes(profile, seed, count):
            effects = monitor.handle(LinkProbed(node="n", sequence=second, rtt_ms=rtt_ms), float(second))
            monitor.check()
            messages = [effect.message for effect in effects if isinstance(effect, Publish)]
            changes += [(second, message) for message in messages if isinstance(message, LinkQualityChanged)]
            second += 1
    return changes


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_has_its_grade_and_keeps_it(profile: str) -> None:
    later: list[str] = []
    inside = 0
    for seed in range(4):
        changes = graded((profile, 1800), seed=seed)
        ends = [at for at, _ in changes[1:]] + [1800]
        grades = [(at, end, message.quality) for (at, message), end in zip(changes, ends, strict=True)]
        inside += sum(end - max(at, 120) for at, end, grade in grades if end > 120 and grade is PROFILES[profile][3])
        later += [message.reason for at, message in changes if at > 120]
    assert inside >= 0.95 * 4 * (1800 - 120)
    assert len(later) <= 4, f"more than one excursion an hour, {profile} flaps: {later}"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_loss_estimate_is_near_the_truth(profile: str) -> None:
    estimate = Estimate()
    for rtt_ms in probes(profile, 11, 400):
        observe(estimate, rtt_ms, 400)
    assert loss(estimate, 30) == pytest.approx(PROFILES[profile][2], abs=0.03)


def test_a_link_that_degrades_and_improves_is_regraded_both_times() -> None:
    for seed in range(4):
        changes = graded(("good", 120), ("poor", 60), ("good", 120), seed=seed)
        worse = [(at, message) for at, message in changes if 120 <= at < 180]
        better = [(at, message) for at, message in changes if at >= 180]
        assert worse[-1][1].quality is LinkQuality.POOR
        assert worse[0][0] - 120 <= 15
        assert better[-1][1].quality in (LinkQuality.GOOD, LinkQuality.FAIR)
        assert better[0][0] - 180 <= 40


@pytest.mark.parametrize("extra_ms", [300.0, 800.0, 1500.0])
def test_a_spike_that_stays_costs_a_good_link_its_grade_for_good(extra_ms: float) -> None:
    monitor = NetworkMonitor(SETTINGS, random.Random(0))
    for second in range(400):
        rtt_ms = 30.0 + (extra_ms if second >= 60 else 0.0)
        monitor.handle(LinkProbed(node="n", sequence=second, rtt_ms=rtt_ms), float(second))
    link = monitor.state.links["n"]
    assert link.quality in (LinkQuality.FAIR, LinkQuality.POOR)
    assert link.estimate.sent_again == 0, "a slower link loses nothing"
    assert link.estimate.smoothed_ms == pytest.approx(30.0 + extra_ms, rel=0.01)


@pytest.mark.parametrize(
    ("rtt_ms", "lost", "jitter_ms", "grade"),
    [
        (0.5, 0.0, 0.3, LinkQuality.EXCELLENT),
        (30.0, 0.001, 10.0, LinkQuality.GOOD),
        (100.0, 0.01, 25.0, LinkQuality.FAIR),
        (225.0, 0.05, 37.0, LinkQuality.POOR),
        (275.0, 0.10, 112.0, LinkQuality.CRITICAL),
        (1000.0, 0.5, 500.0, LinkQuality.CRITICAL),
    ],
)
def test_the_table_of_grades(rtt_ms: float, lost: float, jitter_ms: float, grade: LinkQuality) -> None:
    score = (
        policy.latency_points(rtt_ms, SETTINGS)
        + policy.loss_points(lost, SETTINGS)
        + policy.steadiness_points(jitter_ms, SETTINGS)
        + policy.availability_points(1.0 - lost, 0.0)
    )
    assert policy.grade_of(score, SETTINGS) is grade


def test_points_add_up_to_a_hundred_and_fall_with_every_fault() -> None:
    best = (
        policy.latency_points(0.0, SETTINGS)
        + policy.loss_points(0.0, SETTINGS)
        + policy.steadiness_points(0.0, SETTINGS)
        + policy.availability_points(1.0, 0.0)
    )
    assert best == pytest.approx(100.0)
    for figures in ([0.0, 1.0, 10.0, 100.0, 400.0], [1.0, 5.0, 499.0]):
        points = [policy.latency_points(rtt_ms, SETTINGS) for rtt_ms in figures]
        assert points == sorted(points, reverse=True)
        assert len(set(points)) == len(points)
    assert policy.latency_points(10_000.0, SETTINGS) == 0
    assert policy.loss_points(1.0, SETTINGS) == 0
    assert policy.steadiness_points(10_000.0, SETTINGS) == 0
    assert policy.availability_points(1.0, 1.0) < policy.availability_points(1.0, 0.0)


def test_hysteresis_pulls_only_past_the_margin() -> None:
    good, fair, critical = LinkQuality.GOOD, LinkQuality.FAIR, LinkQuality.CRITICAL
    assert policy.pull(74.0, good, 3.0, SETTINGS) is good
    assert policy.pull(72.9, good, 3.0, SETTINGS) is fair
    assert policy.pull(78.0, fair, 3.0, SETTINGS) is fair
    assert policy.pull(79.0, fair, 3.0, SETTINGS) is good
    assert policy.pull(5.0, good, 3.0, SETTINGS) is critical
    assert policy.noise(0.05, 120, SETTINGS) > policy.noise(0.01, 120, SETTINGS) > 0


def test_trends_need_size_and_significance() -> None:
    rng = random.Random(5)
    noise = [50.0 + rng.uniform(-4, 4) for _ in range(40)]
    rise = [50.0 + i * 0.5 + rng.uniform(-2, 2) for i in range(40)]
    assert policy.trend_of(noise, SETTINGS) == "stable"
    assert policy.trend_of([50.0 + i * 0.01 for i in range(40)], SETTINGS) == "stable"
    assert policy.trend_of(rise, SETTINGS) == "improving"
    assert policy.trend_of(rise[::-1], SETTINGS) == "degrading"
    assert policy.trend_of(rise[:10], SETTINGS) == "stable"


def test_smoothing_follows_rfc_6298() -> None:
    estimate = Estimate()
    observe(estimate, 100.0, 60)
    assert (estimate.smoothed_ms, estimate.deviation_ms) == (100.0, 50.0)
    observe(estimate, 180.0, 60)
    assert estimate.deviation_ms == pytest.approx(0.75 * 50 + 0.25 * 80)
    assert estimate.smoothed_ms == pytest.approx(7 / 8 * 100 + 1 / 8 * 180)
    assert timeout_ms(estimate) == pytest.approx(estimate.smoothed_ms + 4 * estimate.deviation_ms)


def test_jitter_is_the_mean_difference_of_successive_round_trips() -> None:
    estimate = Estimate()
    for rtt_ms in (100.0, 110.0, 90.0, 120.0):
        observe(estimate, rtt_ms, 60)
    assert estimate.jitter_ms == pytest.approx((10 + 20 + 30) / 3)
    for rtt_ms in [120.0] * 100:
        observe(estimate, rtt_ms, 60)
    before = estimate.jitter_ms
    observe(estimate, 200.0, 60)
    assert estimate.jitter_ms == pytest.approx(before + (80 - before) / 16)

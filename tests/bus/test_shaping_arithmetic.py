"""An emulated link's figures: profiles, what TCP makes of them, queues and paces, all in virtual time."""

import heapq
import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.shaping import PROFILES, BadProfile, CongestionControl, LinkProfile, UnknownProfile, profile_named
from bus.shaping.congestion import (
    CONNECT_TIMEOUT,
    INITIAL_WINDOW,
    MSS,
    MTU,
    bbr_share,
    cubic_window,
    handshake_delay,
    retransmission_delay,
    retransmission_timeout,
    tcp_path,
)
from bus.shaping.link import LARGEST_READ, LEAST_BURST, Pacer, RoundTrip, Transmitter
from schemas.errors import ShoalError

CUBIC, BBR = CongestionControl.CUBIC, CongestionControl.BBR
MBIT = 1e6 / 8  # bytes

# Mbit/s of one stream, geometric mean of down and up, measured on packet-level emulation (see benchmarks/proxy.py).
PACKET_LEVEL = {
    ("good", BBR): math.sqrt(187 * 183),
    ("good", CUBIC): math.sqrt(33 * 54),
    ("average", BBR): math.sqrt(43 * 44),
    ("average", CUBIC): math.sqrt(3.2 * 4.3),
    ("poor", BBR): math.sqrt(12.4 * 14.5),
    ("poor", CUBIC): math.sqrt(0.42 * 0.36),
    ("unstable", BBR): math.sqrt(4.0 * 1.8),
    ("unstable", CUBIC): math.sqrt(0.28 * 0.43),
}

losses = st.floats(0.0, 0.3)
profiles = st.builds(
    lambda low, width, loss, rate: LinkProfile(
        name="any", round_trip_ms=(low, low + width), loss=loss, rate_mbit=rate, queue_ms=100
    ),
    st.floats(0, 1000),
    st.floats(0, 1000),
    losses,
    st.floats(0.1, 10_000),
)


def saturate(profile: LinkProfile, control: CongestionControl, flows: int, seconds: float) -> list[int]:
    """Bytes that each of several senders with endless data gets onto one link, in virtual time."""
    path = tcp_path(profile, control)
    link = Transmitter(profile.rate, profile.queue)
    pacers = [Pacer(path) for _ in range(flows)]
    sent = [0] * flows
    order = itertools.count()
    due = [(0.0, next(order), flow) for flow in range(flows)]
    while due[0][0] < seconds:
        now, _, flow = heapq.heappop(due)
        wait = max(pacers[flow].wait(now), link.wait(now))
        if wait <= 1e-9:
            size = max(MSS, min(pacers[flow].credit(now), LARGEST_READ))
            pacers[flow].spend(now, size)
            link.send(now, size)
            sent[flow] += size
        heapq.heappush(due, (now + max(wait, 1e-6), next(order), flow))
    return sent


def test_five_profiles_from_perfect_to_unstable() -> None:
    figures = {p.name: (p.round_trip_ms, p.loss, p.rate_mbit) for p in PROFILES.values()}
    assert figures == {
        "perfect": ((0, 1), 0.0, 1000),
        "good": ((10, 50), 0.001, 200),
        "average": ((50, 150), 0.01, 50),
        "poor": ((150, 300), 0.05, 20),
        "unstable": ((50, 500), 0.10, 10),
    }


def test_an_unknown_name_is_told_the_names_there_are() -> None:
    with pytest.raises(UnknownProfile) as caught:
        profile_named("terrible")
    assert isinstance(caught.value, ShoalError)
    assert caught.value.name == "terrible"
    for name in PROFILES:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round_trip_ms", (20, 10)),
        ("round_trip_ms", (-1, 10)),
        ("round_trip_ms", (0, math.inf)),
        ("loss", 1.0),
        ("loss", -0.1),
        ("loss", math.nan),
        ("rate_mbit", 0),
        ("queue_ms", -1),
        ("jitter_ms", 0),
    ],
)
def test_senseless_figures_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(BadProfile) as caught:
        replace(PROFILES["good"], **{field: value})
    assert caught.value.field == field


@given(losses)
def test_both_directions_together_lose_the_round_trips_share(loss: float) -> None:
    one_way = replace(PROFILES["good"], loss=loss).one_way_loss
    assert 1 - (1 - one_way) ** 2 == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize(("name", "control"), PACKET_LEVEL)
def test_one_stream_gets_what_packet_level_emulation_measured(name: str, control: CongestionControl) -> None:
    seconds = 10.0
    (sent,) = saturate(PROFILES[name], control, 1, seconds)
    ratio = sent / seconds / MBIT / PACKET_LEVEL[name, control]
    assert 1 / 1.5 < ratio < 1.5


@pytest.mark.parametrize("control", [CUBIC, BBR])
def test_without_loss_one_stream_fills_the_line(control: CongestionControl) -> None:
    (sent,) = saturate(PROFILES["perfect"], control, 1, 2.0)
    assert sent / 2.0 == pytest.approx(1000 * MBIT * MSS / MTU, rel=0.03)


@pytest.mark.parametrize("name", ["good", "average", "poor", "unstable"])
def test_streams_that_loss_throttles_add_up(name: str) -> None:
    (one,) = saturate(PROFILES[name], CUBIC, 1, 10.0)
    four = saturate(PROFILES[name], CUBIC, 4, 10.0)
    assert sum(four) == pytest.approx(4 * one, rel=0.05)


def test_streams_share_the_line_evenly_once_it_is_full() -> None:
    eight = saturate(PROFILES["good"], CUBIC, 8, 5.0)
    assert sum(eight) / 5.0 == pytest.approx(200 * MBIT * MSS / MTU, rel=0.05)
    assert max(eight) < 1.2 * min(eight)


@given(profiles, st.floats(0.0, 0.3))
def test_more_loss_never_makes_a_stream_faster(profile: LinkProfile, more: float) -> None:
    worse = replace(profile, loss=min(0.9, profile.loss + more))
    for control in CongestionControl:
        assert tcp_path(worse, control).cap <= tcp_path(profile, control).cap * (1 + 1e-9)


@given(profiles, st.floats(1, 3000))
def test_a_spike_never_makes_a_stream_faster(profile: LinkProfile, extra_ms: float) -> None:
    for control in CongestionControl:
        calm, spiked = tcp_path(profile, control), tcp_path(profile, control, extra_ms)
        assert spiked.cap <= calm.cap * (1 + 1e-9)
        assert spiked.round_trip == pytest.approx(calm.round_trip + extra_ms / 1e3, abs=2e-4)


@given(profiles)
def test_a_stream_gets_something_and_never_more_than_the_line(profile: LinkProfile) -> None:
    for control in CongestionControl:
        assert 0 < tcp_path(profile, control).cap <= profile.rate


def test_cubics_window_is_the_square_root_law_where_that_is_larger() -> None:
    assert cubic_window(0.01, 0.05) == pytest.approx(math.sqrt(1.5 / 0.01))
    # RFC 9438, table 1 (C = 0.4): at a round trip of 100 ms and a loss of 1e-8, 187 thousand segments on average.
    assert cubic_window(1e-8, 0.1) == pytest.approx(187_000, rel=0.01)


def test_bbr_is_held_by_its_window_where_the_round_trip_leaves_its_minimum() -> None:
    assert bbr_share(0.0, 0.05, 0.05, 0.15) == 1.0
    assert bbr_share(0.0, 0.05, 0.85, 0.85) == pytest.approx(0.2 / 0.85)


def test_a_time_out_is_never_shorter_than_linux_allows() -> None:
    assert retransmission_timeout(0.0, 0.001) >= 0.2
    assert retransmission_timeout(0.05, 0.5) == pytest.approx(0.275 + 0.45)


def test_a_lost_single_segment_waits_for_the_time_out() -> None:
    path = tcp_path(PROFILES["unstable"], CUBIC)
    rng = random.Random(1)
    delays = [retransmission_delay(path, 1, False, rng) for _ in range(20_000)]
    late = [delay for delay in delays if delay > 0]
    assert len(late) / len(delays) == pytest.approx(path.loss, rel=0.1)
    assert min(late) == path.retransmission_timeout
    assert max(late) > path.retransmission_timeout  # what is sent again may be lost again


def test_a_loss_within_a_stream_costs_a_round_trip() -> None:
    path = tcp_path(PROFILES["poor"], CUBIC)
    rng = random.Random(2)
    late = [d for _ in range(2000) if (d := retransmission_delay(path, 8, True, rng)) > 0]
    assert min(late) == path.round_trip
    assert late.count(path.round_trip) / len(late) == pytest.approx(1 - path.loss, rel=0.05)
    assert late.count(2 * path.round_trip) > 0  # what is sent again may be lost again, which later segments show


def test_a_perfect_link_loses_nothing() -> None:
    path = tcp_path(PROFILES["perfect"], CUBIC)
    assert all(retransmission_delay(path, 1000, False, random.Random(s)) == 0.0 for s in range(100))
    assert handshake_delay(path, random.Random(1)) == path.round_trip


def test_a_lost_handshake_costs_a_second() -> None:
    path = tcp_path(PROFILES["unstable"], CUBIC)
    rng = random.Random(3)
    delays = [handshake_delay(path, rng) for _ in range(5000)]
    lost = [d for d in delays if d > path.round_trip]
    assert len(lost) / len(delays) == pytest.approx(0.10, rel=0.2)
    assert min(lost) == pytest.approx(path.round_trip + CONNECT_TIMEOUT)


@given(st.integers(0, 2**32), st.lists(st.floats(0.0, 0.4), min_size=1, max_size=200))
def test_the_round_trip_stays_in_its_range_and_wanders_without_jumps(seed: int, steps: list[float]) -> None:
    low, high = 0.05, 0.5
    trip = RoundTrip((low, high), 0.1, random.Random(seed))
    now, before = 100.0, None
    for step in steps:
        now += step / 100
        value = trip.at(now)
        assert low - 1e-12 <= value <= high + 1e-12
        if before is not None:  # the steepest ramp crosses the range in half the mean time
            assert abs(value - before) <= (high - low) * (step / 100) / 0.05 + 1e-9
        before = value


def test_the_round_trip_covers_its_range_and_is_its_seeds_alone() -> None:
    def walk(seed: int) -> list[float]:
        trip = RoundTrip((0.05, 0.5), 0.1, random.Random(seed))
        return [trip.at(n / 100) for n in range(5000)]

    values = walk(7)
    assert values == walk(7) != walk(8)
    assert min(values) < 0.08
    assert max(values) > 0.47
    assert sum(values) / len(values) == pytest.approx(0.275, rel=0.1)


def test_a_pause_of_a_year_costs_no_more_than_a_moment() -> None:
    class Counting(random.Random):
        drawn = 0

        def random(self) -> float:
            self.drawn += 1
            return super().random()

    rng = Counting(1)
    trip = RoundTrip((0.05, 0.5), 0.1, rng)
    trip.at(0.0)
    before = rng.drawn
    assert 0.05 <= trip.at(3e7) <= 0.5
    assert rng.drawn - before <= 4


def test_the_transmitter_sends_one_after_another_at_its_rate() -> None:
    link = Transmitter(MTU * 1000.0, queue=0.1)  # 1000 full packets a second
    assert link.send(5.0, MSS) == pytest.approx(5.001)
    assert link.send(5.0, 10 * MSS) == pytest.approx(5.011)
    assert link.backlog(5.0) == pytest.approx(0.011)
    assert link.send(6.0, MSS) == pytest.approx(6.001)


def test_the_queue_holds_as_long_as_it_may() -> None:
    link = Transmitter(MTU * 1000.0, queue=0.1)
    link.send(0.0, 100 * MSS)
    assert link.wait(0.0) == 0.0
    link.send(0.0, 50 * MSS)
    assert link.wait(0.0) == pytest.approx(0.05)
    assert link.wait(0.05) == pytest.approx(0.0)


def test_what_is_queued_leaves_at_the_new_rate() -> None:
    link = Transmitter(1000.0, queue=10.0)
    link.send(0.0, 1948)  # 2052 bytes with headers
    link.change(0.0, 500.0, 10.0)
    assert link.backlog(0.0) == pytest.approx(4.104)


def test_slow_start_doubles_every_round_trip() -> None:
    profile = LinkProfile(name="long", round_trip_ms=(100, 100), loss=0.0, rate_mbit=10_000, queue_ms=100)
    after = [saturate(profile, CUBIC, 1, trips * 0.1)[0] for trips in (1, 2, 3, 4, 5)]
    assert after[0] >= INITIAL_WINDOW * MSS
    growth = [later / earlier for earlier, later in itertools.pairwise(after)]
    assert all(1.8 < factor < 2.6 for factor in growth)


def test_a_small_message_goes_at_once() -> None:
    pacer = Pacer(tcp_path(PROFILES["average"], CUBIC))
    assert pacer.wait(3.0) == 0.0
    assert pacer.credit(3.0) == pytest.approx(INITIAL_WINDOW * MSS, abs=1)


def test_cubic_forgets_its_window_in_a_pause_and_bbr_does_not() -> None:
    credits = {}
    for control in CongestionControl:
        pacer = Pacer(tcp_path(PROFILES["good"], control))
        for n in range(1000):
            pacer.spend(n * 0.01, pacer.credit(n * 0.01))
        credits[control] = pacer.credit(60.0)
    assert credits[CUBIC] == pytest.approx(INITIAL_WINDOW * MSS, abs=1)
    assert credits[BBR] > 20 * credits[CUBIC]


@given(st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 200_000)), max_size=60), st.sampled_from(list(PROFILES)))
def test_a_sender_is_never_ahead_of_its_cap_by_more_than_a_window(wants: list[tuple[float, int]], name: str) -> None:
    path = tcp_path(PROFILES[name], CUBIC)
    pacer = Pacer(path)
    now, sent = 0.0, 0
    for gap, want in wants:
        now += gap
        if pacer.wait(now) <= 0.0:
            size = min(want, max(MSS, pacer.credit(now)))
            pacer.spend(now, size)
            sent += size
        assert sent <= path.cap * (now + max(path.round_trip, LEAST_BURST)) + MSS + 1


def test_another_path_ends_the_wait_that_the_old_one_imposed() -> None:
    pacer = Pacer(tcp_path(PROFILES["poor"], CUBIC))
    for _ in range(20):
        pacer.spend(0.0, MSS)
    assert pacer.wait(0.0) > 0.1
    pacer.change(0.0, tcp_path(PROFILES["perfect"], CUBIC))
    assert pacer.wait(0.0) == 0.0

"""How suspicious a silence is: phi-accrual, with a tail that is learned instead of a normal distribution.

Phi is that of Hayashibara, Défago, Yared and Katayama, "The phi accrual failure detector" (SRDS 2004): -log10 of the
probability that a living node is silent for as long. They, and Akka, take gaps for normally distributed; Cassandra for
exponentially. Gaps of heartbeats over TCP are neither: most are alike to milliseconds, and now and then a lost segment
holds one up for a retransmission's time-out, which doubles. So only the tail is modelled: gaps above the 95 % quantile
exceed it by an exponential (peaks over threshold; Pickands, Annals of Statistics 3(1), 1975, with shape 0). The quantile is
followed by stochastic approximation (Robbins and Monro, 1951), so that a node takes five numbers and no window of samples.
"""

import math

from agents.failure_detector.settings import FailureDetectorSettings
from agents.failure_detector.state import Ears, Gaps, Pace, Watched

TAIL = 0.05
"""Part of the gaps that the tail is made of."""
PHI_HIGH = -math.log10(TAIL)
MEAN_WEIGHT = 0.02
"""Of a gap in the mean: fifty are remembered."""
TAIL_WEIGHT = 0.1
"""Of a gap of the tail in its mean: ten are remembered, which come in some two hundred gaps."""
STEP = 0.5
"""Of the quantile, in terms of the tail's mean: it follows a new link within some twenty gaps, and trembles by a tenth."""
FINEST = 0.02
"""Of an interval: no tail is taken to be thinner than that, however even heartbeats have been."""
FORGET = math.log(2) / 600
"""Part of a rare stall forgotten with each heartbeat: half in ten minutes at one a second."""
NEW_HIGH, NEW_EXCESS = 1.1, 0.15
"""Intervals; what a node of which nothing is known is taken for: between an average and a poor link."""
INTERVALS = (0.05, 60.0)
"""Seconds; what nodes announce is held to these."""
RTT_TRIPS = 6.0
"""Round trips to be connected again: TCP, TLS 1.3, greeting, and as many to spare."""
RTT_WEIGHT = 0.3
STRAIN_PART = 0.25
"""By which each point of strain lengthens a wait (Lifeguard's multiplier, arXiv 1707.00788, at a quarter of its pace: there
it lengthens single probes, here the whole wait, which goes by what the same starved machine has taught as well)."""


def bounded_interval(announced: float) -> float:
    """Seconds between heartbeats to reckon with, whatever a node announces (not a number included)."""
    low, high = INTERVALS
    return min(announced, high) if announced > low else low


def unknown(interval: float, settings: FailureDetectorSettings) -> Gaps:
    """What to reckon with before a node's first heartbeats have taught better."""
    return Gaps(
        mean=interval,
        high=NEW_HIGH * interval,
        excess=NEW_EXCESS * interval,
        worst=settings.new_beats * interval / settings.patience,
    )


def learn(gaps: Gaps, gap: float, interval: float) -> None:
    """Take in the time between two heartbeats, seconds."""
    gaps.count += 1
    gaps.mean += (1.0 / gaps.count if gaps.count < 1.0 / MEAN_WEIGHT else MEAN_WEIGHT) * (gap - gaps.mean)
    if gaps.worst > gaps.high:
        gaps.worst -= FORGET * (gaps.worst - gaps.high)
    gaps.worst = max(gaps.worst, gap)
    step = STEP * gaps.excess
    if gap > gaps.high:
        gaps.excess = max(FINEST * interval, gaps.excess + TAIL_WEIGHT * (gap - gaps.high - gaps.excess))
        gaps.high += (1.0 - TAIL) * step
    else:
        gaps.excess = max(FINEST * interval, gaps.excess)
        gaps.high = max(0.5 * interval, gaps.high - TAIL * step)


def phi(gaps: Gaps, silent: float) -> float:
    """Suspicion after so many seconds without a heartbeat."""
    if silent <= gaps.high:
        return PHI_HIGH * max(0.0, silent) / gaps.high
    return PHI_HIGH + (silent - gaps.high) / (gaps.excess * math.log(10))


def silence_of(gaps: Gaps, suspicion: float) -> float:
    """Seconds of silence after which the suspicion is so high; `suspicion` is above that of the tail's beginning."""
    return gaps.high + gaps.excess * math.log(10) * max(0.0, suspicion - PHI_HIGH)


def doubtful(node: Watched, settings: FailureDetectorSettings) -> float:
    """Seconds of silence after which a node is asked whether it is there."""
    return min(silence_of(node.gaps, settings.doubt_phi), settings.most_beats * node.interval)


def suspicious(node: Watched, ears: Ears, settings: FailureDetectorSettings) -> float:
    """Seconds of silence after which others are asked, and the suspicion is told."""
    learned = max(silence_of(node.gaps, settings.suspect_phi), settings.suspect_beats * node.interval)
    return min(learned * strained(ears), settings.most_beats * node.interval)


def deadly(node: Watched, ears: Ears, settings: FailureDetectorSettings) -> float:
    """Seconds of silence after which a node whose connection stands is dead."""
    learned = max(
        silence_of(node.gaps, settings.dead_phi), settings.patience * node.gaps.worst, settings.dead_beats * node.interval
    )
    return min(learned * strained(ears), settings.most_beats * node.interval)


def reconnecting(node: Watched, settings: FailureDetectorSettings, *, shaken: bool) -> float:
    """Seconds that a node is given to come back after its connection has ended; `shaken`: it isn't the only one.

    The detector's own strain doesn't count: that nobody is there is the server's word, at the time of the last question.
    """
    usual = min(settings.reconnect_seconds + RTT_TRIPS * node.rtt, settings.reconnect_settle_seconds)
    learned = max(usual, settings.patience * node.away, settings.reconnect_settle_seconds if shaken else 0.0)
    return min(learned, settings.most_beats * node.interval)


def stalling(pace: Pace, settings: FailureDetectorSettings) -> float:
    """Seconds without a step after which a job's process that computes is stalled."""
    learned = max(silence_of(pace.gaps, settings.dead_phi), settings.stall_patience * pace.gaps.worst)
    return max(settings.stall_seconds, learned)


def strained(ears: Ears) -> float:
    """Factor by which a detector waits longer that is late or deaf itself."""
    return 1.0 + STRAIN_PART * ears.strain


def learn_round_trip(node: Watched, rtt: float) -> None:
    """Seconds from a node to the server and back."""
    node.rtt += RTT_WEIGHT * (rtt - node.rtt)


def learn_return(node: Watched, silent: float, settings: FailureDetectorSettings) -> None:
    """It was taken for dead, and had never been: silences of that length are part of its life."""
    node.gaps.worst = max(node.gaps.worst, min(silent, settings.most_beats * node.interval))

"""What a link's loss and round trip leave of TCP: the cap of one stream, and the delay of what has to be sent again.

A proxy ends TCP on both sides, so it can't lose packets and let the kernels react. It computes the reaction instead. In
all formulas p is the probability that one packet is lost in one direction, and round trips are in seconds.
"""

import math
import random
from dataclasses import dataclass
from enum import Enum

from bus.shaping.profiles import LinkProfile

MTU = 1500
"""Bytes of a packet on nearly every access link (Ethernet)."""

HEADERS = 52
"""Bytes of IPv4 (20), TCP (20) and its time stamp option (12) in front of a segment."""

MSS = MTU - HEADERS

INITIAL_WINDOW = 10
"""Segments that a sender may send before the first acknowledgement (RFC 6928)."""

DUPLICATES = 3
"""Later segments that must arrive before a hole counts as a loss (RFC 5681, section 3.2; RFC 6675)."""

LEAST_TIMEOUT_VARIANCE = 0.2
"""Seconds that Linux adds to the smoothed round trip for its retransmission time-out, at least (TCP_RTO_MIN)."""

CONNECT_TIMEOUT = 1.0
"""Seconds until a lost SYN is sent again, doubled each time (RFC 6298, section 2)."""

MOST_ATTEMPTS = 6
"""Losses of one segment in a row that are followed; more than that no profile with a name sees in practice."""

LEAST_ROUND_TRIP = 1e-4
"""Seconds; even a switch and two kernels take that long, and the formulas divide by it."""

CUBIC_GAIN = 1.45
"""How far cubic's window on Linux exceeds the response function, which assumes losses at even distances and a constant
round trip: random losses leave long undisturbed runs, and acknowledgements that arrive together open the window faster.
Calibrated on packet-level emulation with Linux 6 (see `benchmarks/proxy.py`)."""

BBR_LOSS_DECAY = 17.5
"""BBR's goodput falls as exp(-17.5 p): the first round of each recovery sends only what was acknowledged, and a lost
retransmission ends in a time-out, so that a share of the rounds that grows with p carries little. Calibrated like
`CUBIC_GAIN`."""

BBR_WINDOW_GAIN = 2.0
"""BBR keeps at most twice rate x least round trip in flight (draft-cardwell-iccrg-bbr-congestion-control-00, cwnd_gain),"""

BBR_AGGREGATION = 0.1
"""plus what acknowledgements that come in clumps are worth, at most 100 ms of the rate (Linux, bbr_extra_acked_max_us)."""


class CongestionControl(Enum):
    """Who decides how much a sender has in flight."""

    CUBIC = "cubic"
    """What nearly all of the world runs: halves at a loss, whatever caused it."""
    BBR = "bbr"
    """Models the path and ignores single losses."""


@dataclass(frozen=True, slots=True)
class TcpPath:
    """A link as one TCP sender sees it."""

    cap: float
    """Bytes of payload a second that one stream gets, however long it lasts."""
    round_trip: float
    """Mean round trip."""
    retransmission_timeout: float
    loss: float
    """Probability that a packet is lost in one direction."""
    restarts_when_idle: bool
    """Whether the window shrinks to the initial one after a pause."""


def tcp_path(profile: LinkProfile, control: CongestionControl, spike_ms: float = 0.0) -> TcpPath:
    """The path that a profile makes, `spike_ms` added to its round trip."""
    low, high = (max(LEAST_ROUND_TRIP, bound) for bound in profile.slower_by(spike_ms).round_trip)
    usual_low = max(LEAST_ROUND_TRIP, profile.round_trip[0])
    timeout = retransmission_timeout(low, high)
    loss = profile.one_way_loss
    line = profile.rate * MSS / MTU
    if control is CongestionControl.CUBIC:
        cap = cubic_goodput(loss, harmonic_mean(low, high), timeout)
    else:
        cap = line * bbr_share(loss, usual_low, low, high)
    return TcpPath(
        cap=min(line, cap),
        round_trip=(low + high) / 2,
        retransmission_timeout=timeout,
        loss=loss,
        restarts_when_idle=control is CongestionControl.CUBIC,
    )


def cubic_window(loss: float, round_trip: float) -> float:
    """Mean congestion window of cubic in segments (RFC 9438, equations 6 and 7, with C = 0.4 and beta = 0.7).

    The Reno-friendly window, which is the square-root law of Mathis et al. (1997), is the floor under the cubic one.
    """
    friendly = math.sqrt(3 / 2) / math.sqrt(loss)
    cubic = math.pow(0.4 * 3.7 / 1.2, 0.25) * math.pow(round_trip / loss, 0.75)
    return max(friendly, cubic)


def cubic_goodput(loss: float, round_trip: float, timeout: float) -> float:
    """Bytes a second of one cubic stream; infinite without loss.

    A segment costs its share of a round trip, round_trip / window, and its share of a time-out, which follows a loss with
    probability 3 sqrt(3 p / 8): the two terms of Padhye et al. (1998), equation 30, the second to first order in p.
    """
    if loss <= 0.0:
        return math.inf
    window = CUBIC_GAIN * cubic_window(loss, round_trip)
    timeouts = loss * min(1.0, 3 * math.sqrt(3 * loss / 8))
    return MSS / (round_trip / window + timeouts * timeout)


def bbr_share(loss: float, usual_low: float, low: float, high: float) -> float:
    """What BBR gets of the line, 0 to 1: the loss decay, times the mean of min(1, window / round trip).

    The window is sized by the least round trip of the last ten seconds, `usual_low`, while acknowledgements take between
    `low` and `high`, taken as uniformly distributed.
    """
    window = BBR_WINDOW_GAIN * usual_low + BBR_AGGREGATION
    return math.exp(-BBR_LOSS_DECAY * loss) * _mean_of_capped_ratio(window, low, high)


def _mean_of_capped_ratio(window: float, low: float, high: float) -> float:
    """Mean of min(1, window / t) for t uniform in [low, high]."""
    if high <= low:
        return min(1.0, window / low)
    knee = min(max(window, low), high)
    return (knee - low + window * math.log(high / knee)) / (high - low)


def harmonic_mean(low: float, high: float) -> float:
    """Harmonic mean of a uniform distribution: a window a round trip makes a mean rate of window / this."""
    return low if high <= low else (high - low) / math.log(high / low)


def retransmission_timeout(low: float, high: float) -> float:
    """Smoothed round trip + max(200 ms, 4 mean deviations) (RFC 6298, section 2, with Linux's minimum).

    The mean deviation of a uniform distribution is a quarter of its range.
    """
    return (low + high) / 2 + max(LEAST_TIMEOUT_VARIANCE, high - low)


def retransmission_delay(path: TcpPath, segments: int, more_follows: bool, rng: random.Random) -> float:
    """Seconds by which losses delay a burst of segments, and so everything behind it on its connection.

    A segment followed by three others is sent again after a round trip, and again after another if that is lost too, which
    later segments show (RACK, RFC 8985). One of the last three of a burst that nothing follows waits for the time-out,
    and for twice the time-out if that is lost.
    """
    if path.loss <= 0.0 or rng.random() < (1.0 - path.loss) ** segments:
        return 0.0
    at_the_end = not more_follows and rng.randrange(max(segments, 1)) < DUPLICATES
    wait, growth = (path.retransmission_timeout, 2.0) if at_the_end else (path.round_trip, 1.0)
    delay = wait
    for _ in range(MOST_ATTEMPTS):
        if rng.random() >= path.loss:
            break
        wait *= growth
        delay += wait
    return delay


def handshake_delay(path: TcpPath, rng: random.Random) -> float:
    """Seconds that TCP's handshake takes: a round trip, and a second, two, four ... for each time it is lost."""
    delay = path.round_trip
    for attempt in range(MOST_ATTEMPTS):
        if rng.random() >= 1.0 - (1.0 - path.loss) ** 2:
            break
        delay += CONNECT_TIMEOUT * 2.0**attempt
    return delay

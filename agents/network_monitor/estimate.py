"""From probes to round trip, jitter and loss: constant work a probe.

Round trip and deviation are the SRTT and RTTVAR of RFC 6298, section 2, in milliseconds: gains 1/8 and 1/4, first sample R
gives SRTT = R and RTTVAR = R/2. Jitter is that of RFC 3550, section 6.4.1: the mean difference between successive values,
gain 1/16; a link that gets better or worse once isn't unsteady, which RTTVAR would take it for.

As in RFC 6298, section 3 (Karn's algorithm), an answer that was sent again isn't a sample. A probe can't see that directly:
an answer later than the retransmission time-out SRTT + max(200 ms, 4 RTTVAR) (200 ms is Linux's minimum) is held. Is the
next one in time, those held had been sent again. Are so many late in a row that losses alone would be a coincidence
(`COINCIDENCE`), the link has become slower, and all of them are samples: two in a row on a clean link, three or four on one
that loses packets anyway.

Loss is the larger of two views of the same thing: probes that were lost or sent again, among the last `window`; and the
kernel's count of segments sent again where it is known (it isn't for an emulated link, which delays instead of losing).
"""

from agents.network_monitor.state import SENT_AGAIN, UNANSWERED, Estimate

GAIN = 1 / 8
"""Of the smoothed round trip (RFC 6298, alpha)."""

DEVIATION_GAIN = 1 / 4
"""Of the mean deviation (RFC 6298, beta)."""

JITTER_GAIN = 1 / 16
"""Of the jitter (RFC 3550, 6.4.1); larger while there are few samples, so that it starts as their mean."""

LEAST_TIMEOUT_MS = 200.0
"""Linux's least retransmission time-out above the round trip (TCP_RTO_MIN)."""

COINCIDENCE = 3e-4
"""Probability of a run of losses under which it is taken for a slower link: once in an hour of probes."""

MOST_HELD = 4
"""Late answers in a row that settle it, whatever the loss: nobody should wait longer for the news."""

COUNTED = 16
"""Samples that are counted: after that all gains are constant."""

SETTLED = 4
"""Samples from which the time-out is trusted to tell late answers: before that the deviation is a guess."""

RETRANSMITTED_GAIN = 1 / 32
"""Of the kernel's fraction: a minute's memory at a probe a second, as long as the mean age of the probes' window."""


def observe(estimate: Estimate, rtt_ms: float | None, window: int) -> bool:
    """Take one probe in. True where it confirms that the round trip has jumped."""
    if rtt_ms is None:
        estimate.silent_run += 1
        if estimate.held:
            _settle_held(estimate, window, slower=False)
        _remember(estimate, UNANSWERED, window)
        return False
    estimate.silent_run = 0
    late = estimate.measured >= SETTLED and rtt_ms > timeout_ms(estimate)
    if not late:
        if estimate.held:
            _settle_held(estimate, window, slower=False)
        _sample(estimate, rtt_ms, window)
        return False
    estimate.held.append(rtt_ms)
    run = len(estimate.held)
    jumped = run >= MOST_HELD or likely_loss(estimate) ** run <= COINCIDENCE
    if jumped:
        _settle_held(estimate, window, slower=True)
    return jumped


def observe_retransmitted(estimate: Estimate, fraction: float) -> None:
    """Take in what the kernel says of segments sent again."""
    estimate.retransmitted += RETRANSMITTED_GAIN * (min(1.0, max(0.0, fraction)) - estimate.retransmitted)


def timeout_ms(estimate: Estimate) -> float:
    """The retransmission time-out: SRTT + max(200 ms, 4 RTTVAR) (RFC 6298, 2.3, with Linux's minimum)."""
    return estimate.smoothed_ms + max(LEAST_TIMEOUT_MS, 4 * estimate.deviation_ms)


def loss(estimate: Estimate, prior: int) -> float:
    """Fraction lost, 0 to 1; counted over at least `prior` probes."""
    counted = max(len(estimate.history), prior)
    return max((estimate.unanswered + estimate.sent_again) / counted, estimate.retransmitted)


def likely_loss(estimate: Estimate) -> float:
    """Loss by Laplace's rule of succession, (lost + 1) / (probes + 2): a short history rules little out."""
    return max((estimate.unanswered + estimate.sent_again + 1) / (len(estimate.history) + 2), estimate.retransmitted)


def answered(estimate: Estimate, prior: int) -> float:
    """Fraction of the probes that got an answer, late or not; unknown ones count as answered up to `prior`."""
    return 1.0 - estimate.unanswered / max(len(estimate.history), prior)


def _settle_held(estimate: Estimate, window: int, *, slower: bool) -> None:
    """The verdict on late answers: the link's round trip, or sent again."""
    held, estimate.held = estimate.held, []
    for rtt_ms in held:
        if slower:
            _sample(estimate, rtt_ms, window)
        else:
            _remember(estimate, SENT_AGAIN, window)


def _sample(estimate: Estimate, rtt_ms: float, window: int) -> None:
    measured = estimate.measured
    if measured == 0:
        estimate.smoothed_ms = rtt_ms
        estimate.deviation_ms = rtt_ms / 2
    else:
        away = rtt_ms - estimate.smoothed_ms
        estimate.deviation_ms += DEVIATION_GAIN * (abs(away) - estimate.deviation_ms)
        estimate.smoothed_ms += GAIN * away
        gain = JITTER_GAIN if measured == COUNTED else max(JITTER_GAIN, 1 / measured)
        estimate.jitter_ms += gain * (abs(rtt_ms - estimate.last_ms) - estimate.jitter_ms)
    estimate.last_ms = rtt_ms
    if measured < COUNTED:
        estimate.measured = measured + 1
    _remember(estimate, rtt_ms, window)


def _remember(estimate: Estimate, entry: float, window: int) -> None:
    history = estimate.history
    history.append(entry)
    if entry < 0:
        _count(estimate, entry, 1)
    if len(history) > window:
        gone = history.pop(0)
        if gone < 0:
            _count(estimate, gone, -1)


def _count(estimate: Estimate, entry: float, change: int) -> None:
    """One more, or one less, of what is no round trip."""
    if entry == UNANSWERED:
        estimate.unanswered += change
    elif entry == SENT_AGAIN:
        estimate.sent_again += change

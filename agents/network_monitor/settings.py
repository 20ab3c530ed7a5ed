"""What an operator may set of the network monitor (`[network_monitor]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
Points = Annotated[float, Meta(ge=0, le=100)]
Probes = Annotated[int, Meta(ge=1, le=600)]


class NetworkMonitorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults. Nodes probe once a second, so a number of probes is a number of seconds."""

    # History
    window: Annotated[int, Meta(ge=20, le=600)] = 120
    """Probes that the loss is counted over. At 5 % loss the estimate is then within 2 points of it, most of the time;
    at 60 the noise alone would carry links over a boundary."""
    loss_prior: Probes = 30
    """Probes that the loss is counted over at least, so that one lost among the first five isn't taken for 20 %."""
    warm_up: Probes = 5
    """Probes before a link gets its first grade."""

    # Score: latency 40, loss 30, reliability 30
    latency_knee_ms: Positive = 10.0
    """Round trips well under this are as good as none; above it every factor costs the same number of points."""
    latency_worst_ms: Positive = 500.0
    """Round trip that gets no points for latency: the unstable end of mobile links."""
    loss_worst: Fraction = 0.10
    """Loss that gets no points: at 10 % one stream of cubic is left with a thirtieth of a 10 Mbit/s line."""
    jitter_worst_ms: Positive = 130.0
    """Mean difference between one round trip and the next that gets no points for steadiness: nobody can tell a slow answer
    from a lost one there."""
    outage_half_life: Positive = 300.0
    """Seconds after which an outage counts half."""

    # Grades
    excellent_from: Points = 90.0
    """Least score of `excellent`: a wired network, round trips under some 15 ms."""
    good_from: Points = 76.0
    """Least score of `good`: tens of milliseconds, next to no loss."""
    fair_from: Points = 62.0
    """Least score of `fair`: about 100 ms and 1 % loss."""
    poor_from: Points = 35.0
    """Least score of `poor`: 150 to 300 ms and 5 % loss; under it a link is `critical`."""
    margin: Points = 3.0
    """Points by which a boundary must be crossed at least: one lost probe is worth 2.5. On a link that loses more, it is
    what the noise of the loss is worth."""
    dwell_worse: Probes = 3
    """Probes in a row that must be under a boundary: bad news is told within some seconds."""
    dwell_better: Probes = 8
    """Probes in a row that must be over a boundary: good news has to last, since acting on it costs more if it doesn't."""
    flap_turns: Annotated[int, Meta(ge=2, le=32)] = 4
    """Turns of the grade (worse after better, or better after worse) within `flap_seconds` that make a link flap; to be
    better it then needs `flap_dwell` times as long."""
    flap_seconds: Positive = 300.0
    flap_dwell: Annotated[int, Meta(ge=1, le=20)] = 4

    # Trend
    trend_window: Annotated[int, Meta(ge=8, le=600)] = 40
    """Scores that a trend is fitted to."""
    trend_points: Positive = 5.0
    """Rise or fall over the window under which a trend is of no interest: less than half a grade."""
    trend_significance: Positive = 4.0
    """Slope over its standard error. 2 would do for independent scores (95 %); neighbours share most of their history,
    which makes the error look about half of what it is."""

    # Silence
    offline_after: Positive = 6.0
    """Seconds without a probe after which a link is offline: five missed and a margin. One of them may stall for seconds
    while TCP repairs a loss."""
    deaf_after: Positive = 3.0
    """Seconds without a probe of any node after which the monitor doubts its own ears (a server that restarts)."""
    deaf_seconds: Positive = 15.0
    """How long it then waits before it believes in the silence."""
    resume_gap: Probes = 10
    """Missing sequence numbers that count as unanswered probes; a larger gap counts as one outage."""

    # Alerts and the summary
    alert_interval: Positive = 60.0
    """Seconds between two alerts of a kind on a node."""
    loss_alert: Fraction = 0.08
    """Loss that raises an alert; half of it ends the condition."""
    unanswered_alert: Probes = 3
    """Probes in a row without an answer that raise an alert whatever the loss."""
    summary_delay: Positive = 1.0
    """Seconds a summary waits for more changes to go with it."""
    summary_interval: Positive = 10.0
    """Seconds between two summaries at least."""
    links_kept: Annotated[int, Meta(ge=16)] = 16_384
    """Links remembered; beyond that the ones that have been offline longest are forgotten."""

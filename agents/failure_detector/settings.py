"""What an operator may set of the failure detector (`[failure_detector]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Phi = Annotated[float, Meta(ge=1.5, le=30)]
Beats = Annotated[float, Meta(ge=1)]


class FailureDetectorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults. Phi is the suspicion of Hayashibara et al.: 2 means that one silence in a hundred is
    as long though the node lives. Beats are intervals between a node's heartbeats, as it announces them."""

    # From suspicion to death
    doubt_phi: Phi = 2.0
    """From here on a node is asked whether it is there: a request for one heartbeat in a hundred costs nothing."""
    suspect_phi: Phi = 4.0
    """From here on other nodes are asked to reach it, and the suspicion is published."""
    suspect_beats: Beats = 2.0
    """Silence of at least so many beats before that: whatever it has learnt, one lost heartbeat is no news."""
    dead_phi: Phi = 8.0
    """From here on it is dead, if it answers nobody: the threshold that Cassandra and Akka have, too."""
    dead_beats: Beats = 3.0
    """Least silence of a node whose connection stands. Below it, a machine that swaps or a link that repairs two losses in
    a row would be dead; what ends a connection is seen sooner (`reconnect_seconds`)."""
    most_beats: Beats = 15.0
    """Longest silence of a node before it is dead, whatever its heartbeats have taught."""
    patience: Annotated[float, Meta(ge=1, le=10)] = 1.25
    """Times the longest silence that it came back from, which is forgotten slowly: rare stalls are too rare for phi."""
    new_beats: Beats = 5.0
    """Silence that a node of which nothing is known yet is allowed: the plain time-out of five missed heartbeats."""
    reconnect_seconds: Positive = 0.5
    """For a connection that ended to be made anew before its node is dead. Clients try after 50 ms and thrice within this;
    six round trips of the node's own link come on top (TCP, TLS, greeting, subscriptions)."""
    reconnect_settle_seconds: Positive = 3.0
    """The same where several nodes lost theirs at once, or the detector its own: clients of a server that was away for long
    try every two seconds."""
    reach_timeout_seconds: Positive = 3.0
    """For an answer to a request: ten round trips of a poor link."""
    helpers: Annotated[int, Meta(ge=0, le=16)] = 3
    """Nodes that are asked to reach a suspect: as in SWIM, where three make a false accusation by one bad link rare."""

    # Job processes
    stall_seconds: Positive = 20.0
    """Least time without a step after which a process that computes is stalled: a validation, a collection of garbage or a
    disk that spins up must not cost a start."""
    stall_patience: Annotated[float, Meta(ge=1)] = 5.0
    """Times the longest time that one of its steps took: a microbatch that is doubled twice is still no stall."""
    stall_signs: Annotated[int, Meta(ge=1)] = 20
    """Steps (or half seconds of them) to learn its pace from before anything is said."""

    # Figures
    figure_values: Annotated[int, Meta(ge=20)] = 60
    """Values of a figure before anything is said of it: a minute of heartbeats, sixty rounds."""
    odd_deviations: Positive = 8.0
    """Robust deviations from the median beyond which a value is odd: figures of machines have long tails."""
    odd_part: Annotated[float, Meta(ge=0)] = 0.5
    """Of the median, by which it must differ besides: what costs less than half is for the agents that adapt to it."""
    odd_values: Annotated[int, Meta(ge=1)] = 10
    """Odd values in a row that are news, and usual ones that end it: a spike is none."""
    block_values: Annotated[int, Meta(ge=5)] = 60
    """Values of a block; a trend is one of eight blocks, eight minutes of heartbeats."""
    trend_part: Annotated[float, Meta(gt=0)] = 0.25
    """Growth over eight blocks that is a trend, in terms of the first."""

    # Its own health
    pulse_seconds: Positive = 1.0
    """Between two looks at its own timers and at its link to the server, each told to who follows it."""
    late_seconds: Positive = 0.5
    """A timer this late says that the detector itself is starved: it waits longer then."""
    stopped_seconds: Positive = 1.0
    """A timer this late says that it stood still: silences count anew."""

    nodes_kept: Annotated[int, Meta(ge=16)] = 16384
    """Nodes remembered; beyond that the longest dead are forgotten. Living nodes are always kept."""

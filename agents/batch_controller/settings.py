"""What an operator may set of the batch controller (`[batch_controller]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.jobs import Encoding

Positive = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(gt=1)]
Rounds = Annotated[int, Meta(ge=0, le=1000)]


class BatchControllerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults."""

    # Microbatch
    latency_weight: Fraction = 0.6
    """Of `hybrid`: the latency's say; the throughput has the rest."""
    latency_step_ms: Positive = 100.0
    """Round trip for which a microbatch grows by the one asked for: at 300 ms it is to be four times as large."""
    pressure: Fraction = 0.35
    """Say that it takes to move: throughput alone (0.4) may, against the latency's wish (0.4 - 0.6) neither moves."""
    gain: Fraction = 0.15
    """Change of samples/s that counts as one: timings of a busy machine vary by some per cent, and a doubled microbatch
    halves the updates that are made of the same samples, so a few per cent aren't worth it."""
    hybrid_gain: Fraction = 0.5
    """The same for `hybrid`, which is to learn fast and not only to compute fast: a step of twice the samples was seen to
    be worth 1.2 to 1.4 steps (`benchmarks/worth.py`), so that it may take a third longer: 1.5 times the samples/s."""
    microbatch_cooldown: Rounds = 3
    """Rounds between two changes of a node's microbatch: two to measure it, one for the change to arrive."""
    turns_counted: Annotated[int, Meta(ge=0, le=16)] = 5
    """Doublings of the cooldown at most, one for each change that takes back the one before: 3 rounds become 96."""

    # Steps and rounds
    drift: Ratio = 1.25
    """Factor by which a measured time must differ from the one planned with before shares are looked at again."""
    steps_slack: Fraction = 0.15
    """Part of a node's steps by which the ideal number may differ before it is changed."""
    every_max: Annotated[int, Meta(ge=1, le=64)] = 8
    """Rounds between a node's contributions at most: one that is 8 rounds old counts a ninth."""
    miss_discount: Annotated[float, Meta(gt=0, le=1)] = 0.75
    """Work left to a node for each deadline that it missed, until it is in time again."""
    misses_counted: Annotated[int, Meta(ge=0, le=32)] = 6
    """Missed deadlines in a row that are counted: 0.75^6 leaves a sixth of the work."""

    # Goodput
    stretch: Annotated[float, Meta(ge=1, le=64)] = 4.0
    """Factor by which `goodput` may make rounds longer than the request's `local_steps`, where a target loss ends the job:
    what averaging seldom costs was measured for up to 64 steps."""
    length_gain: Fraction = 0.05
    """Gain of useful progress a second for which a round's length is changed: each change is a round or two of learning
    anew what nodes take."""

    # Deadline
    deadline_quantile: Annotated[float, Meta(ge=0.5, le=1)] = 0.9
    """Of a node's own arrivals: of twenty the two slowest, a stall or an outage, don't count."""
    deadline_history: Annotated[int, Meta(ge=4, le=1000)] = 20
    """Arrivals of a node that are remembered: two for the tenth that the quantile leaves out."""
    deadline_margin: Fraction = 0.2
    """Part of it that is added at least: rounds of a steady node vary by a fifth or so. Arrivals that are spread more
    widely add their own spread."""
    deadline_timeout: Positive = 0.3
    """Seconds added to it: a segment that is lost last is sent again after TCP's least timeout, 0.2 s on Linux."""
    deadline_patience: Ratio = 2.0
    """Factor over what a quorum needs up to which others are waited for: with one who takes longer, all would make fewer
    than half of the rounds, while a late difference still counts half."""
    deadline_factor: Ratio = 1.5
    """For a node with too few arrivals of its own, deadline over the time planned: rounds vary by a fifth or so, a loss may
    cost another."""
    deadline_floor: Positive = 3.0
    """Seconds added to that, for what isn't known yet: time-outs, a busy machine, a reconnection."""
    start_deadline: Positive = 30.0
    """Seconds while no step was measured yet: a first round includes caches and memory that are still cold."""
    deadline_drift: Ratio = 1.5
    """Factor by which the deadline must differ to be published without any share that does."""

    # Encoding
    spared_share: Fraction = 0.01
    """Part of a round that an upload may take in float32 or float16 before a coarser encoding than the link's grade
    suggests is used, int8 at most: with error feedback that costs nothing that was ever seen, its arithmetic takes a
    thousandth of a round, and what it saves is computing time."""
    slow_share: Fraction = 0.25
    """The same of int8 and int4, where `coarsest` allows coarser ones: int4 and topk cost some rounds early in training."""
    coarsest: Encoding = "int8"
    """What `auto` goes to at most. `int4` and `topk` make uploads so small that a node on a moody link passes for one that
    can contribute to each round; what then keeps all waiting is the link's mood, which no number of bytes mends."""

    # Reaction
    coalesce: Positive = 0.3
    """Seconds that events gather before shares are looked at: the measurements of a round come close together."""
    settle: Annotated[float, Meta(ge=0)] = 1.0
    """Seconds that a controller without memory listens before it speaks: assignments in force arrive first."""
    rollback_hold: Rounds = 5
    """Rounds after a rollback without a change of its own; the same reasons would lead to the same mistake."""

    # Bounds
    assignments_kept: Annotated[int, Meta(ge=2, le=100)] = 10
    """Assignments a job that a rollback can return to."""
    jobs_kept: Annotated[int, Meta(ge=1)] = 1024
    """Jobs remembered, ended ones included (by name alone)."""
    nodes_kept: Annotated[int, Meta(ge=16)] = 16_384
    """Nodes whose link and profile are remembered."""

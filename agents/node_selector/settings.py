"""What an operator may set of the node selector (`[node_selector]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Rounds = Annotated[int, Meta(ge=1)]


class NodeSelectorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults. Seconds, rounds, and scores from 0 to 1 unless said otherwise."""

    # Liveness
    missed_beats: Annotated[float, Meta(ge=2)] = 5.0
    """Heartbeat intervals of silence that make a death. Heartbeats travel at most once over links that stall for a second
    or two while TCP repairs a loss; five intervals (5 s at 1 Hz) outlast that and still leave half of a 10 s recovery."""
    detector_seconds: Positive = 5.0
    """Without a word of the failure detector for so long, the selector goes by `missed_beats` itself; while there is one,
    by what it says. Five of its pulses, as with nodes."""
    detector_patience: Annotated[float, Meta(ge=1)] = 4.0
    """Times `missed_beats` of silence after which a node is dead though the failure detector, which lives, doesn't say so:
    some more than the longest silence that it allows itself."""
    interval_min: Positive = 0.05
    """Seconds; a node that announces a shorter interval is held to this one (it would be dead at each hiccup)."""
    interval_max: Positive = 60.0
    """Seconds; a node that announces a longer interval is held to this one (it could never be found dead)."""
    deaf_beats: Annotated[float, Meta(ge=1)] = 2.0
    """Intervals without a word from any node at all, after which the selector doubts its own ears, not the nodes. Half of
    the other four of `missed_beats` (a node's last beat may be an interval old when a cut begins): two cuts in a row, with
    a moment of hearing between them that not every node uses, don't add up to a death."""
    deaf_answers: Rounds = 2
    """Probes that the server must then answer, one after the other and a silence's limit apart, before anybody is taken
    for dead: they show that heartbeats would have come. A verdict by a selector that was cut off itself would end every
    process of every job, and a verdict on a death only helps nodes that are alive."""
    probe_timeout_seconds: Positive = 3.0
    """After which such a probe counts as lost: far beyond the round trip of a machine that can do the selector's work."""
    settle_seconds: Annotated[float, Meta(ge=0)] = 0.3
    """Nodes that join within this time get into one roster: a fleet that starts makes one change, not fifty."""
    nodes_kept: Annotated[int, Meta(ge=16)] = 16384
    """Nodes remembered, as many as the failure detector remembers; beyond that the longest dead are forgotten, who have to
    be looked for with each new one. Living nodes are always kept."""

    # Score
    quality_threshold: Annotated[float, Meta(ge=0, le=100)] = 40.0
    """`quality`: the link score (0 to 100) a node must have; 40 is where the grade `fair` ends."""
    quality_band: Annotated[float, Meta(ge=0, le=50)] = 5.0
    """Points above the threshold at which a node left out comes back: half the noise of a score between two grades."""
    adaptive_k: Positive = 1.0
    """`adaptive`: standard deviations under the fleet's mean at which the threshold lies."""
    adaptive_margin: Fraction = 0.1
    """`adaptive`: the least distance of the threshold from the mean, so that equal links aren't told apart by noise."""
    contribution_margin: Fraction = 0.5
    """`contribution`: how far under the median counts as well below. Efficiency alone can't cost a node more: a slow link
    is no reason to put out a node that does contribute, it has to be unreliable too."""
    contribution_k: Positive = 3.0
    """`contribution`: robust standard deviations (1.4826 x MAD) under the median, where that is further than the margin."""
    top_n: Annotated[int, Meta(ge=1)] = 8
    """`top_n`: nodes to take where the job has no `max_nodes`."""
    rank_margin: Fraction = 0.1
    """By how much an outsider must beat a member to take its place."""
    prior_reliability: Fraction = 0.9
    """Reliability of a node nothing is known of: like a good one, or it would never get to prove it."""
    prior_weight: Positive = 4.0
    """Attempts that this belief is worth: four rounds of evidence weigh as much."""
    memory: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    """What an attempt still counts one attempt later: some ten attempts are remembered."""
    smoothing: Annotated[float, Meta(gt=0, le=1)] = 0.3
    """Weight of the newest value in the means of speed and efficiency: the last three or four rounds decide."""

    fairness: Fraction = 0.05
    """`useful`: part of a score that goes to who was seldom in: half of `rank_margin`, so that it settles close calls and
    equal nodes don't change places for nothing. Oort leaves it to its users."""
    explore: Fraction = 0.3
    """`useful`: part of a job's places that go to nodes nobody knows, at first: a third of Oort's 0.9, since each costs a
    start of a process and a copy of the model."""
    explore_decay: Annotated[float, Meta(gt=0, le=1)] = 0.98
    """What is left of it a round later, as in Oort."""

    # Pace of choices
    choice_every: Rounds = 3
    """Rounds between two changes by choice: a newcomer takes one or two to catch up and be measured."""
    patience: Rounds = 3
    """Rounds in a row a member must be under the threshold before it is left out."""
    turn_after: Rounds = 10
    """Rounds after which a node left out gets a turn again; doubles each time it is left out again, up to 8 times."""
    trial_rounds: Rounds = 5
    """Rounds of such a turn in which it isn't left out again: patience, and two to catch up."""

    # Several jobs
    jobs_together: Annotated[int, Meta(ge=1)] = 1
    """Jobs that a node is given to while there are others: each is a process with model and optimizer in memory, and one
    more difference to average. More than 1 serves machines with cores and memory to spare, since a job's process computes
    on one thread."""
    jobs_crowded: Annotated[int, Meta(ge=1)] = 4
    """Jobs that a node is given to at most, where there are more jobs than nodes; further ones wait for one to end."""
    share_margin: Fraction = 0.2
    """Part by which some job's share of the fleet must grow for nodes to change hands: measured speeds vary by some per
    cent, and each such node stands still for some ten seconds, while a process starts and fetches the model."""
    share_seconds: Annotated[float, Meta(ge=0)] = 60.0
    """Between two such changes, some times what one costs. A job that comes or ends, and free nodes, don't wait for it."""

    # Reducers
    reducers: Annotated[int, Meta(ge=1, le=16)] = 3
    """Names in the list of reducers: two may fall silent in one round."""
    reducer_margin: Fraction = 0.15
    """By how much another node must beat the first reducer: a change costs a round's warm connections."""
    load_penalty: Fraction = 0.1
    """Taken off for every other job that a node leads already."""

    # Quarantine
    strikes: Positive = 3.0
    """Failures that bring a quarantine (missed rounds in a row, crashes, refused contributions); a success halves them."""
    quarantine_seconds: Positive = 30.0
    """The first quarantine: some five rounds of the usual length."""
    quarantine_growth: Annotated[float, Meta(ge=1, le=10)] = 2.0
    """Factor from one quarantine to the next."""
    quarantine_max_seconds: Positive = 600.0
    """The longest: a machine that was mended is back within ten minutes."""
    probation_successes: Rounds = 3
    """Contributions after a release that end the probation; until then one failure is enough for the next quarantine."""

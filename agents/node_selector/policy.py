"""The arithmetic of selection: scores, thresholds, quorum, strikes. Pure functions of numbers."""

import math
from collections.abc import Sequence
from statistics import fmean, median, pstdev

from agents.node_selector.settings import NodeSelectorSettings

# Scales the median absolute deviation to the standard deviation of a normal distribution
# (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993).
MAD_TO_STD = 1.4826
# A node without a figure of its own is taken for average where there is nothing to compare it with.
UNKNOWN = 0.5
# Factors of ten between the best line and one that is worth nothing for reducing: 1 Gbit/s against 0.1 Mbit/s.
LINE_DECADES = 4.0


def quorum_of(nodes: int) -> int:
    """Contributions without which a round of so many nodes doesn't close: more than a third, 1 for one or two nodes.

    A majority would have rounds wait for slow links wherever more than half of the machines have one; a lone survivor must
    be able to go on. Two reducers still can't both close a round: that is settled by compare-and-set, not by the quorum.
    """
    return nodes // 3 + 1


def efficiency(compute: float, waiting: float) -> float:
    """compute / (compute + waiting), both in seconds: the part of a round that a node spent computing, 0 to 1."""
    total = compute + waiting
    return compute / total if total > 0 else 0.0


def reliability(successes: float, attempts: float, settings: NodeSelectorSettings) -> float:
    """successes / attempts with a prior for newcomers: the mean of a beta distribution, 0 to 1.

    Source: Josang and Ismail, The Beta Reputation System, 2002, section 3.1; its forgetting factor is `settings.memory`.
    """
    weight = settings.prior_weight
    return (successes + settings.prior_reliability * weight) / (attempts + weight)


def contribution(efficient: float, reliable: float) -> float:
    """50 % efficiency and 50 % reliability, 0 to 1."""
    return 0.5 * efficient + 0.5 * reliable


def standing(link: float, speed: float) -> float:
    """What `top_n` ranks by: half the link's score, half the speed relative to the fastest; all 0 to 1."""
    return 0.5 * link + 0.5 * speed


def line_level(rate: float | None, best: float | None) -> float:
    """A measured upload rate against the best of the roster, both in bytes a second: 1 for the best, less by a quarter for
    each factor of ten. A node that was not measured counts as the best: the first reducer never uploads to itself."""
    if rate is None or best is None or rate >= best:
        return 1.0
    return max(0.0, 1.0 - math.log10(best / rate) / LINE_DECADES)


def reducer_merit(link: float, speed: float, reliable: float, leads: int, settings: NodeSelectorSettings) -> float:
    """How fit a node is to reduce: everybody's tensors go through its link, so that counts most (0.6); it averages on its
    CPU (0.2) and must not fall silent (0.2). `leads`: other jobs that it leads already."""
    return 0.6 * link + 0.2 * speed + 0.2 * reliable - settings.load_penalty * leads


def adaptive_threshold(scores: Sequence[float], settings: NodeSelectorSettings) -> float | None:
    """mean - k x standard deviation of the fleet, at least a margin under the mean; None under three nodes."""
    if len(scores) < 3:
        return None
    return fmean(scores) - max(settings.adaptive_k * pstdev(scores), settings.adaptive_margin)


def outlier_threshold(scores: Sequence[float], settings: NodeSelectorSettings) -> float | None:
    """median - k x 1.4826 x MAD, at least a margin under the median; None under three nodes, where none is the rule.

    Median and MAD, since mean and deviation are moved by the very outlier that is looked for.
    """
    if len(scores) < 3:
        return None
    middle = median(scores)
    spread = MAD_TO_STD * median(abs(score - middle) for score in scores)
    return middle - max(settings.contribution_k * spread, settings.contribution_margin)


def smoothed(mean: float | None, value: float, weight: float) -> float:
    """Exponentially weighted mean; the first value stands for itself."""
    return value if mean is None else mean + weight * (value - mean)


def quarantine_seconds(level: int, settings: NodeSelectorSettings) -> float:
    """Length of the next quarantine after `level` unforgiven ones: doubling, up to a limit."""
    # 2^32 is far beyond any limit; the exponent is bounded so that a long history can't overflow.
    return min(settings.quarantine_seconds * settings.quarantine_growth ** min(level, 32), settings.quarantine_max_seconds)


def turn_after(times_out: int, settings: NodeSelectorSettings) -> int:
    """Rounds until a node left out gets a turn again: doubles with each time, up to 8 times."""
    return settings.turn_after * int(2 ** min(max(times_out - 1, 0), 3))

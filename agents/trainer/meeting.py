"""How often the nodes of a site average in the midst of a round, and how long one of them waits for the others.

Steps between two averages wander off by themselves: H of them teach as much as H / (1 + k (H - 1)) with an average
after each. Averages inside a site cost little where its network is quick. So a round of H steps is cut into m parts,
between which all are averaged inside: m makes (1 + k (H / m - 1)) (T + (m - 1) c) least, where T is what the steps take
and c an average. With steps of s seconds, parts of some sqrt(c / (s k)) steps come of it, and the optimum is flat.
"""

from collections.abc import Sequence

from schemas.sites import SiteMember

STEP_COST = 0.025
"""Of a step's worth, for each further step between two averages: 3 and 10 steps instead of one cost a language model of a
million parameters 4 and 22 % more steps, with Adam (`benchmarks/local_steps.py`). Digits hardly mind, and neither do they
mind averages that cost as little as these."""

GAIN = 0.02
"""For which the number of parts is changed: what an average takes is known no better."""

UNMEASURED = 0.5
"""Of a step, for an average that nobody has timed: a site where it takes longer shows that in one round."""

LEAST_PATIENCE = 2.0
"""Seconds that the others are waited for at least: a busy machine has such pauses."""

WAITED = 2.0
"""Times the longest wait among the last ones: validating, or loading data, comes again."""


def parts(members: Sequence[SiteMember], cost: float, present: int = 0, asked: int = 0) -> int:
    """Into how many parts the next round is cut, by what the members did in the last one.

    Args:
        cost: seconds of an average inside; 0 where none was timed.
        present: parts of the last round; 0: none were chosen.
        asked: steps of a part, if the user said so; 0: as it pays.
    """
    steps = mean_steps(members)
    most = max((member.steps for member in members), default=1)
    if asked:
        return max(1, min(most, round(steps / asked)))
    seconds = max((member.compute_seconds for member in members), default=0.0)
    one = cost or UNMEASURED * seconds / max(1.0, steps)
    values = {number: _seconds_for(number, steps, seconds, one) for number in range(1, most + 1)}
    best = min(values, key=lambda number: (values[number], number))
    return present if values.get(present, float("inf")) <= values[best] * (1.0 + GAIN) else best


def _seconds_for(number: int, steps: float, seconds: float, cost: float) -> float:
    """What a round in so many parts takes for as much as one with an average after each step would teach."""
    return (1.0 + STEP_COST * max(0.0, steps / number - 1.0)) * (seconds + (number - 1) * cost)


def mean_steps(members: Sequence[SiteMember]) -> float:
    """Steps of a round, as samples have it: most of them are taken by who takes many."""
    samples = sum(member.samples for member in members)
    return sum(member.steps * member.samples for member in members) / max(1, samples)


def why(members: Sequence[SiteMember], cost: float, number: int, asked: int) -> str:
    """The reason for a number of parts, in words."""
    each = f"{mean_steps(members) / number:.1f} steps"
    if number == 1:
        part = "no average before a round's end"
    else:
        part = f"{number - 1} averages before a round's end, one after {each} each"
    if asked:
        return f"{part}: the request says {asked}"
    taken = f"one takes {cost * 1000:.0f} ms" if cost else "none has been timed yet"
    seconds = max((member.compute_seconds for member in members), default=0.0)
    return f"{part}: {taken}, a round's steps {seconds:.1f} s"


def patience(seconds: float, waits: Sequence[float], failures: int) -> float:
    """Seconds that a node waits for the others at an average, given those that a part of its round takes, how long it
    waited at the last ones, and how many groups came to nothing in a row (the wait that broke one is known to nobody)."""
    expected = WAITED * max(waits, default=0.0)
    return max(LEAST_PATIENCE, seconds / 2, expected) * 2.0 ** min(failures, 5)

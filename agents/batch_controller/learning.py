"""What measurements say of a node's speed: estimates that one odd value doesn't move.

The median of the last five times of a step, for each microbatch of its own, since a node's time hardly ever is
proportional to the microbatch (kernel launches, a padded step). In between and beyond, seconds = a + b x microbatch.
"""

import math
from collections.abc import Mapping
from statistics import median_low

from agents.batch_controller.state import Known, Node
from schemas.ids import NodeId
from schemas.nodes import ACCELERATION
from schemas.training import Share

REMEMBERED = 5
"""Values a median is taken of: two odd ones are outvoted, a lasting change counts from the third value."""

FIXED_PART = 0.3
"""Of a step's time that doesn't depend on the microbatch, where only one microbatch was measured."""

SHIFT = 1.5
"""Factor by which a step's time changes when the machine itself has changed: times of other microbatches are void."""

LEAST_PART = 0.5
"""Of a time in proportion to the microbatch: no extrapolation downwards goes under it, whatever the noise of two values."""

CPU_STEP = 0.05
"""Seconds a step where nothing was measured anywhere; only ratios between nodes matter then."""


def observe_steps(known: Known, microbatch: int, step_seconds: float) -> None:
    """A node timed its local steps: seconds a step, on average."""
    times = known.steps.setdefault(microbatch, [])
    before = median_low(times) if times else None
    times.append(step_seconds)
    del times[:-REMEMBERED]
    after = median_low(times)
    if before is not None and not 1 / SHIFT < after / before < SHIFT:
        known.steps = {microbatch: times[-2:]}


def step_seconds(known: Known, microbatch: int) -> float | None:
    """Expected seconds of a step; None where no step was measured at all."""
    points = sorted((size, median_low(times)) for size, times in known.steps.items())
    if not points:
        return None
    if microbatch in known.steps:
        return median_low(known.steps[microbatch])
    if len(points) == 1:
        ((size, seconds),) = points
        return seconds * (FIXED_PART + (1 - FIXED_PART) * microbatch / size)
    nearest = sorted(points, key=lambda point: abs(math.log2(point[0] / microbatch)))[:2]
    (x0, y0), (x1, y1) = sorted(nearest)
    slope = max(0.0, (y1 - y0) / (x1 - x0))
    return max(y0 + slope * (microbatch - x0), LEAST_PART * y0 * min(1.0, microbatch / x0))


def fixed_part(known: Known, size: int) -> float | None:
    """Part of the time of a step of `size` samples that doesn't depend on it, 0 to 1; None while one size was measured.

    From the smallest and the largest size, whose difference is the least noise.
    """
    points = sorted((measured, median_low(times)) for measured, times in known.steps.items())
    if len(points) < 2:
        return None
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = max(0.0, (y1 - y0) / (x1 - x0))
    fixed = max(0.0, y0 - slope * x0)
    return fixed / max(1e-9, fixed + slope * size)


def samples_a_second(known: Known) -> dict[int, float]:
    """Measured throughput by microbatch."""
    return {size: size / max(1e-9, median_low(times)) for size, times in known.steps.items()}


def hinted_step(node: Node, microbatch: int, asked: int) -> float:
    """Seconds of a step going by a node's own description: a guess that the first measurement replaces."""
    own = CPU_STEP / (ACCELERATION if node.accelerated else 1.0) * (FIXED_PART + (1 - FIXED_PART) * microbatch / asked)
    return max(own, node.step_time * microbatch / asked) * node.slowdown / node.share


def guess_scale(
    known: Mapping[NodeId, Known], nodes: Mapping[NodeId, Node], present: Mapping[NodeId, Share], start: int
) -> float:
    """Measured over hinted step time, the median of the nodes that were measured: what a guess is to be scaled by."""
    ratios = []
    for name in known:
        size = present[name].microbatch if name in present else start
        seconds = step_seconds(known[name], size)
        if seconds is not None:
            ratios.append(seconds / hinted_step(nodes[name], size, start))
    return sorted(ratios)[(len(ratios) - 1) // 2] if ratios else 1.0

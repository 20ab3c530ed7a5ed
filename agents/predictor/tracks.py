"""Figures as levels of danger, and their trends: the same for what is heard now and for what history has recorded.

A level of 1 is the fault. Of its last eight blocks come the three figures that a chance is made of: the level now, the
growth until the horizon by the median of all slopes (Theil-Sen, which a spike doesn't move), and how much it varies
about that.
"""

import math
import re
from collections.abc import Mapping
from itertools import combinations
from statistics import median

from agents.predictor.settings import PredictorSettings
from agents.predictor.state import Model, Track
from schemas.prediction import RiskKind

BLOCKS = 8
"""That a trend is taken from: with ten seconds each, the last minute and a half, about as long as is looked ahead."""
LEAST_BLOCKS = 6
"""Before anything is said: what a process takes as it starts is no trend."""
USUAL_GAIN, USUAL_SEEN = 0.005, 10
"""By which the usual speed follows, over some two hundred rounds; and rounds before it is known at all."""
MOST = 2.0
"""Levels beyond that say no more."""
CERTAINTY, DOUBT = 10.0, 3.0
"""Of the trend that stands in for a model: the logarithm of the odds is the first times what the level at the horizon, less
the second times the noise, is beyond 1. So a level that will just be reached has even chances, one that falls short by a
tenth a chance of 27 %, and a slope that noise may have made (three median deviations, carried to the horizon, are about one
standard deviation) counts for little."""
PRIOR = Model(bias=-CERTAINTY, weights=(CERTAINTY, CERTAINTY, -CERTAINTY * DOUBT))

_KINDS: Mapping[str, RiskKind] = {
    "memory_used_bytes": "memory",
    "temperature_c": "heat",
    "disk_used_part": "disk",
    "probe_lost": "link",
    "samples_per_s": "speed",
    "ecc_corrected": "gpu",
}
_GPU = re.compile(r"^gpu\d+_(temperature_c|ecc_corrected)$")
CROSSING: frozenset[RiskKind] = frozenset({"heat", "disk", "speed"})
"""Kinds whose fault is the level itself; of the others it is an event."""


def kind_of(figure: str) -> RiskKind | None:
    """The fault that a figure may foretell."""
    found = _GPU.match(figure)
    return _KINDS.get(found[1] if found else figure)


def level(track: Track, value: float, memory_bytes: int, settings: PredictorSettings) -> float | None:
    """A value's level; None where it can't be said yet."""
    s = settings
    track.seen += 1
    match track.kind:
        case "memory":
            found = value / memory_bytes if memory_bytes > 0 else None
        case "heat":
            found = value / s.heat_c if value > 0 else None  # a GPU that doesn't tell says 0
        case "disk":
            found = value / s.disk_part
        case "link":
            found = value / s.lost_part
        case "speed":
            found = _slowness(track, value, s)
        case "gpu":
            before, track.last = track.last, value
            found = max(0.0, value - before) * 10 / s.ecc_errors if track.seen > 1 else None
    return None if found is None or not math.isfinite(found) else min(MOST, max(0.0, found))


def _slowness(track: Track, value: float, settings: PredictorSettings) -> float | None:
    if value <= 0:
        return None
    known = track.seen > USUAL_SEEN
    gain = max(USUAL_GAIN, 1 / track.seen)
    found = settings.slow_part * track.usual / value if known else None
    track.usual += gain * (value - track.usual)
    return found


def take(track: Track, value: float, now: float, settings: PredictorSettings) -> bool:
    """Take a level in; gives whether that ended a block."""
    if track.count == 0:
        track.since = now
    track.total, track.count = track.total + value, track.count + 1
    if now - track.since < settings.block_seconds:
        return False
    track.blocks = [*track.blocks[1 - BLOCKS :], track.total / track.count]
    track.total, track.count = 0.0, 0
    return True


def features(track: Track, settings: PredictorSettings) -> tuple[float, float, float] | None:
    """Level, growth until the horizon, noise; None where there are too few blocks."""
    blocks = track.blocks
    if len(blocks) < LEAST_BLOCKS:
        return None
    slope = _slope(blocks)
    late = _slope(blocks[len(blocks) // 2 :])
    at = median(value - slope * place for place, value in enumerate(blocks))
    ahead = settings.horizon_seconds / settings.block_seconds
    noise = median(abs(value - at - slope * place) for place, value in enumerate(blocks))
    # What has risen and stands still doesn't rise: a trend is what the second half shows, too.
    lasting = 0.0 if slope * late <= 0 else min(slope, late, key=abs)
    return at + slope * (len(blocks) - 1), max(-MOST, min(MOST, lasting * ahead)), noise


def _slope(blocks: list[float]) -> float:
    """Change from one block to the next."""
    return median((blocks[j] - blocks[i]) / (j - i) for i, j in combinations(range(len(blocks)), 2))


def chance(model: Model, found: tuple[float, float, float]) -> float:
    """Of the fault within the horizon."""
    odds = model.bias + sum(weight * value for weight, value in zip(model.weights, found, strict=True))
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, odds))))

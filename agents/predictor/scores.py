"""Precision and recall of what was foreseen, and the threshold that follows from them.

The best threshold has the greatest F-measure (van Rijsbergen, "Information Retrieval", 1979), of outcomes that nobody
interfered with: a fault that was prevented would count as a false alarm.
"""

from agents.predictor.settings import PredictorSettings
from agents.predictor.state import Score

THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))
"""0.1 to 0.9: a chance beyond that is told in any case."""


def fresh() -> Score:
    """Nothing is known."""
    return Score(hits=[0.0] * len(THRESHOLDS), alarms=[0.0] * len(THRESHOLDS), misses=[0.0] * len(THRESHOLDS))


def count(score: Score, chance: float, came: bool, settings: PredictorSettings) -> None:
    """One more outcome."""
    score.outcomes += 1
    score.faults += came
    for place, threshold in enumerate(THRESHOLDS):
        told = chance >= threshold
        score.hits[place] = score.hits[place] * settings.memory + (told and came)
        score.alarms[place] = score.alarms[place] * settings.memory + (told and not came)
        score.misses[place] = score.misses[place] * settings.memory + (came and not told)
    if score.faults >= settings.least_faults:
        score.threshold = _best(score, settings)


def precision(score: Score, threshold: float) -> float | None:
    """Part of what would have been told that came."""
    place = _place(threshold)
    told = score.hits[place] + score.alarms[place]
    return score.hits[place] / told if told > 0 else None


def recall(score: Score, threshold: float) -> float | None:
    """Part of what came that would have been told."""
    place = _place(threshold)
    came = score.hits[place] + score.misses[place]
    return score.hits[place] / came if came > 0 else None


def _best(score: Score, settings: PredictorSettings) -> float | None:
    """Of equally good ones the highest; None where none would have told of anything that came."""
    weight = settings.beta**2
    best, found = 0.0, None
    for place, threshold in enumerate(THRESHOLDS):
        hits, alarms, misses = score.hits[place], score.alarms[place], score.misses[place]
        measure = (1 + weight) * hits / ((1 + weight) * hits + weight * misses + alarms) if hits > 0 else 0.0
        if measure > 0 and measure >= best:
            best, found = measure, threshold
    return found


def _place(threshold: float) -> int:
    return min(range(len(THRESHOLDS)), key=lambda place: abs(THRESHOLDS[place] - threshold))

"""What the healer and the predictor have learned, from what they have said."""

import math
from collections.abc import Sequence

import msgspec

from agents.healer import HealerSettings, Lesson, policy
from schemas.healing import FaultKind, Healed, HealingFailed, Remedy
from schemas.prediction import Basis, FaultForeseen, PredictionJudged, PredictorLearned, RiskKind
from schemas.wire import Message


class RemedyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A remedy against a kind of fault."""

    fault: FaultKind
    remedy: Remedy
    successes: float
    """Older ones count less."""
    failures: float
    chance: float
    """Of success: mean of the Beta distribution of what was assumed and what came of it."""
    deviation: float
    """Its standard deviation."""
    seconds: float | None
    """From order to health, the mean of successes; None before the first."""
    seconds_deviation: float | None


class RiskRow(msgspec.Struct, kw_only=True):
    """A kind of fault that may be foreseen."""

    kind: RiskKind
    basis: Basis = "trend"
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    outcomes: int = 0
    faults: int = 0
    learned: str = ""
    """What was said of the last look at the history."""
    expected_of: tuple[str, ...] = ()
    """Nodes of which it is expected now."""


def remedies(events: Sequence[Message]) -> list[RemedyRow]:
    """The last word on each pair, by fault and chance. `events` in order of time. The chances are those of the healer's
    settings as they are by default: what was assumed is not part of what it says."""
    last: dict[tuple[FaultKind, Remedy], RemedyRow] = {}
    for event in events:
        if isinstance(event, Healed | HealingFailed):
            before = last.get((event.fault, event.remedy))
            last[event.fault, event.remedy] = _row(event, before)
    return sorted(last.values(), key=lambda row: (row.fault, -row.chance))


def _row(event: Healed | HealingFailed, before: RemedyRow | None) -> RemedyRow:
    lesson = Lesson(successes=event.successes, failures=event.failures)
    good, bad = policy.chance(lesson, event.fault, event.remedy, HealerSettings())
    total = good + bad
    times = (before.seconds, before.seconds_deviation) if before is not None else (None, None)
    if isinstance(event, Healed):
        times = event.mean_seconds, event.deviation_seconds
    return RemedyRow(
        fault=event.fault,
        remedy=event.remedy,
        successes=event.successes,
        failures=event.failures,
        chance=good / total,
        deviation=math.sqrt(good * bad / (total * total * (total + 1))),
        seconds=times[0],
        seconds_deviation=times[1],
    )


def risks(events: Sequence[Message]) -> list[RiskRow]:
    """The last words on each kind of fault, and of whom it is expected. `events` in order of time."""
    rows: dict[RiskKind, RiskRow] = {}
    expected: dict[tuple[RiskKind, str], bool] = {}
    for event in events:
        if isinstance(event, PredictionJudged):
            row = rows.setdefault(event.kind, RiskRow(kind=event.kind))
            row.basis, row.threshold, row.outcomes, row.faults = event.basis, event.threshold, event.outcomes, event.faults
            row.precision, row.recall = event.precision, event.recall
        elif isinstance(event, PredictorLearned):
            row = rows.setdefault(event.kind, RiskRow(kind=event.kind))
            row.basis, row.learned = event.basis, event.reason
        elif isinstance(event, FaultForeseen):
            rows.setdefault(event.kind, RiskRow(kind=event.kind)).basis = event.basis
            expected[event.kind, event.node] = event.expected
    for kind, row in rows.items():
        row.expected_of = tuple(sorted(node for (of, node), holds in expected.items() if of == kind and holds))
    return [rows[kind] for kind in sorted(rows)]

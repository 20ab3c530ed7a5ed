"""Which remedy to try next, and what outcomes teach.

Remedies are tried in the order of success per cost, p / c, which makes the expected cost of a repair least where each try
either helps or doesn't (Heckerman, Breese and Rommelse, "Decision-theoretic troubleshooting", CACM 38(3), 1995). What isn't
known of p is a Beta distribution, and a draw of it stands for p (Thompson, Biometrika 25, 1933), so that what was tried
seldom gets its turn in proportion to the chance that it is the best. The cost is the time that a try takes, as measured,
and the work that it destroys.
"""

import math
import random
from collections.abc import Mapping, Sequence

from agents.healer.settings import HealerSettings
from agents.healer.state import Lesson
from schemas.healing import FaultKind, Remedy
from schemas.prediction import RiskKind

PRIORS: Mapping[FaultKind, Mapping[Remedy, float]] = {
    "stalled": {"restart": 0.7, "move": 0.5},
    "crashed": {"move": 0.4},
    "out_of_memory": {"shrink": 0.5, "move": 0.5},
    "given_up": {"retry": 0.4},
    "slow": {"restart": 0.4, "free": 0.2, "move": 0.5},
    "reducer": {"demote": 0.7},
    "flapping": {"quarantine": 0.6, "demote": 0.4},
    "agent": {"restart_agent": 0.8},
    "foreseen": {"free": 0.3, "shrink": 0.4, "demote": 0.3, "move": 0.6},
}
"""The remedies against each kind of fault, with the chance of success that is assumed until it is learned."""

FORESEEN: Mapping[RiskKind, tuple[Remedy, ...]] = {
    "memory": ("free", "shrink", "move"),
    "heat": ("move",),
    "disk": ("move",),
    "link": ("demote",),
    "gpu": ("move",),
    "speed": (),
}
"""Those that make sense against what is expected: a node whose link may break can work on while nobody relies on it."""

DISRUPTION: Mapping[Remedy, float] = {
    "wait": 0.0,
    "free": 1.0,
    "demote": 3.0,
    "shrink": 5.0,
    "restart_agent": 5.0,
    "restart": 20.0,
    "retry": 20.0,
    "move": 120.0,
    "quarantine": 180.0,
}
"""Seconds of a node's work that a remedy destroys besides the time that it takes: a start with catching up takes some
twenty, a node that is kept out of a job works a good part of that time elsewhere or not at all."""


def chance(lesson: Lesson | None, fault: FaultKind, remedy: Remedy, settings: HealerSettings) -> tuple[float, float]:
    """The two parameters of the Beta distribution of a remedy's success."""
    prior = PRIORS[fault].get(remedy, 0.5)
    known = lesson or Lesson()
    weight = settings.prior_weight
    return prior * weight + known.successes, (1 - prior) * weight + known.failures


def cost(lesson: Lesson | None, remedy: Remedy, settings: HealerSettings) -> float:
    """Seconds that a try takes: as long as successes took, or all of its time; and what it destroys."""
    known = lesson or Lesson()
    total = settings.prior_weight + known.successes + known.failures
    spent = known.successes * known.mean + (known.failures + settings.prior_weight) * settings.judge_seconds
    return spent / total + DISRUPTION[remedy]


def choose(
    fault: FaultKind,
    remedies: Sequence[Remedy],
    lessons: Mapping[str, Lesson],
    rng: random.Random,
    settings: HealerSettings,
) -> Remedy:
    """The one of these to try; there must be one."""
    worth: dict[Remedy, float] = {}
    for remedy in remedies:
        lesson = lessons.get(key(fault, remedy))
        drawn = rng.betavariate(*chance(lesson, fault, remedy, settings))
        worth[remedy] = drawn / cost(lesson, remedy, settings)
    return max(worth, key=worth.__getitem__)


def key(fault: FaultKind, remedy: Remedy) -> str:
    """Where a lesson is kept."""
    return f"{fault}/{remedy}"


def succeed(lesson: Lesson, seconds: float, settings: HealerSettings) -> None:
    """It helped, after so many seconds (weighted mean and variance as in West, CACM 22(9), 1979)."""
    _age(lesson, settings)
    lesson.successes += 1.0
    distance = seconds - lesson.mean
    lesson.mean += distance / lesson.successes
    lesson.spread += distance * (seconds - lesson.mean)


def fail(lesson: Lesson, settings: HealerSettings) -> None:
    """It didn't."""
    _age(lesson, settings)
    lesson.failures += 1.0


def deviation(lesson: Lesson) -> float:
    """Standard deviation of the time to health, seconds."""
    return math.sqrt(max(0.0, lesson.spread) / lesson.successes) if lesson.successes > 0 else 0.0


def _age(lesson: Lesson, settings: HealerSettings) -> None:
    lesson.tries += 1
    lesson.successes *= settings.memory
    lesson.failures *= settings.memory
    lesson.spread *= settings.memory

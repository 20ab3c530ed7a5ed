"""What the predictor knows; all of it serialises."""

import msgspec

from schemas.ids import NodeId
from schemas.prediction import Basis, RiskKind

KINDS: tuple[RiskKind, ...] = ("memory", "heat", "disk", "link", "speed", "gpu")


class Window(msgspec.Struct, kw_only=True, array_like=True):
    """A chance that was given, waiting for what comes of it."""

    chance: float
    until: float


class Track(msgspec.Struct, kw_only=True):
    """One figure of a node, as a level: at 1 the fault is there."""

    kind: RiskKind
    usual: float = 0.0
    """Of speeds: what is usual, learned slowly."""
    last: float = 0.0
    """Of counters: the last value."""
    seen: int = 0
    since: float = 0.0
    """When the block under way began."""
    total: float = 0.0
    count: int = 0
    blocks: list[float] = []
    """Means of the last ones."""
    window: Window | None = None


class Told(msgspec.Struct, kw_only=True):
    """A fault that is expected."""

    figure: str
    held_out: bool


class Watched(msgspec.Struct, kw_only=True):
    """A node."""

    memory_bytes: int = 0
    tracks: dict[str, Track] = {}
    """By figure."""
    told: dict[RiskKind, Told] = {}


class Model(msgspec.Struct, kw_only=True):
    """Chance of a fault within the horizon: logistic in level, growth over the horizon, and noise."""

    bias: float
    weights: tuple[float, float, float]
    basis: Basis = "trend"


class Score(msgspec.Struct, kw_only=True):
    """What came of chances that were given, at each threshold that might have been; older outcomes count less."""

    hits: list[float]
    """Faults that would have been told."""
    alarms: list[float]
    """Told without a fault."""
    misses: list[float]
    """Faults that would not have been told."""
    outcomes: int = 0
    faults: int = 0
    threshold: float | None = None
    """The best; None as long as there are too few."""


class PredictorState(msgspec.Struct, kw_only=True):
    """All of it."""

    nodes: dict[NodeId, Watched] = {}
    models: dict[RiskKind, Model] = {}
    scores: dict[RiskKind, Score] = {}
    version: int = 0

"""The predictor's heavy work: models fitted to the recorded history."""

import msgspec

from agents.effects import Work
from agents.inputs import Result
from agents.predictor.settings import PredictorSettings
from agents.predictor.state import Model
from schemas.prediction import RiskKind


class LearnFromHistory(Work, frozen=True, kw_only=True):
    """Fit models to what the recorder has kept; comes back as `Learned`."""

    settings: PredictorSettings


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """What history says of one kind of fault."""

    kind: RiskKind
    examples: int
    faults: int
    model: Model | None = None
    """None where there is too little, or the trend is better."""
    loss_model: float | None = None
    loss_trend: float | None = None
    problem: str = ""
    """Why there is no model, in words."""


class Learned(Result, frozen=True, kw_only=True):
    """Of all kinds."""

    fitted: tuple[Fitted, ...]

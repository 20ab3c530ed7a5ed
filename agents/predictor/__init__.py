"""Faults that are about to come, foreseen from trends and from models learned from history; judged by what came."""

from agents.predictor.core import Predictor
from agents.predictor.settings import PredictorSettings
from agents.predictor.state import Model, PredictorState
from agents.predictor.works import Fitted, Learned, LearnFromHistory

__all__ = ["Fitted", "LearnFromHistory", "Learned", "Model", "Predictor", "PredictorSettings", "PredictorState"]

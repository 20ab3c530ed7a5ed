"""How much adaptation a job is allowed: phases, policies, rollback, and what it costs."""

from agents.optimizer.core import Optimizer
from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import OptimizerState

__all__ = ["Optimizer", "OptimizerSettings", "OptimizerState"]

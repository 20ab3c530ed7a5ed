"""The node's side of a round: local steps, the difference, the outer step, catching up."""

from agents.trainer.core import Trainer
from agents.trainer.settings import TrainerSettings
from agents.trainer.state import TrainerState

__all__ = ["Trainer", "TrainerSettings", "TrainerState"]

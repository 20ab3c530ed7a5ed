"""The batch controller: gives every node the work that lets a round close on time."""

from agents.batch_controller.core import BatchController
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import BatchControllerState

__all__ = ["BatchController", "BatchControllerSettings", "BatchControllerState"]

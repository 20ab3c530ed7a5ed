"""Takes jobs in, says where they stand, and ends them."""

from agents.job_desk.core import JobDesk
from agents.job_desk.settings import JobDeskSettings
from agents.job_desk.state import DeskState

__all__ = ["DeskState", "JobDesk", "JobDeskSettings"]

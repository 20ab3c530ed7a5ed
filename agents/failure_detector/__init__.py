"""The failure detector: says who is alive, from how each node's own heartbeats come."""

from agents.failure_detector.core import FailureDetector
from agents.failure_detector.settings import FailureDetectorSettings
from agents.failure_detector.state import FailureDetectorState

__all__ = ["FailureDetector", "FailureDetectorSettings", "FailureDetectorState"]

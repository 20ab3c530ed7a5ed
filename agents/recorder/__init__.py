"""Keeps what was said, how nodes did, and asks for a report when a job has ended."""

from agents.recorder.core import Recorder
from agents.recorder.settings import RecorderSettings
from agents.recorder.state import RecorderState
from agents.recorder.works import ReportBuilt, ReportWork

__all__ = ["Recorder", "RecorderSettings", "RecorderState", "ReportBuilt", "ReportWork"]

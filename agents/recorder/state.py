"""All that the recorder knows itself; the rest is in its history."""

import msgspec

from agents.recorder.statistics import Series
from schemas.ids import JobId, NodeId


class RecorderState(msgspec.Struct, kw_only=True):
    """Rolling figures and reports that are due."""

    series: dict[NodeId, dict[str, Series]] = msgspec.field(default_factory=dict)
    """By node and figure; the node that was heard last is last."""
    reports: dict[JobId, int] = msgspec.field(default_factory=dict)
    """Reports to be written, with the attempts so far."""
    reported: dict[JobId, float] = msgspec.field(default_factory=dict)
    """Jobs whose report is written or given up, and when, in seconds since the epoch; oldest first."""

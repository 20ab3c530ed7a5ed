"""Owns one machine: says what it is and that it lives, starts job processes and watches over them."""

from agents.node.core import NodeAgent
from agents.node.settings import NodeAgentSettings
from agents.node.state import JobHere, NodeState
from agents.node.works import (
    AbortWork,
    BundleArriving,
    MachineSampled,
    Measured,
    MeasuringWork,
    PaceJobs,
    SampleMachine,
    TrainingWork,
    TrustChanged,
)

__all__ = [
    "AbortWork",
    "BundleArriving",
    "JobHere",
    "MachineSampled",
    "Measured",
    "MeasuringWork",
    "NodeAgent",
    "NodeAgentSettings",
    "NodeState",
    "PaceJobs",
    "SampleMachine",
    "TrainingWork",
    "TrustChanged",
]

"""The real cores that a simulation runs, made as their processes make them."""

import importlib
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agents.base import Agent

# name: (module, core, settings); each agent of a fleet runs once.
AGENTS = {
    "job_desk": ("agents.job_desk", "JobDesk", "JobDeskSettings"),
    "node_selector": ("agents.node_selector", "NodeSelector", "NodeSelectorSettings"),
    "batch_controller": ("agents.batch_controller", "BatchController", "BatchControllerSettings"),
    "network_monitor": ("agents.network_monitor", "NetworkMonitor", "NetworkMonitorSettings"),
    "optimizer": ("agents.optimizer", "Optimizer", "OptimizerSettings"),
    "failure_detector": ("agents.failure_detector", "FailureDetector", "FailureDetectorSettings"),
    "appraiser": ("agents.appraiser", "Appraiser", "AppraiserSettings"),
}


def agent_factory(name: str, seed: int, settings: Mapping[str, Any]) -> Callable[[], Agent[Any]]:
    """What makes the core of an agent as it is at its first start."""
    module_name, core_name, settings_name = AGENTS[name]
    module = importlib.import_module(module_name)
    made = msgspec.convert(dict(settings), getattr(module, settings_name))
    core: Callable[..., Agent[Any]] = getattr(module, core_name)
    return lambda: core(made, random.Random(f"{seed}/{name}"))

"""Who is alive, who takes part in a job, who reduces: liveness, rosters, quarantine."""

from agents.node_selector.core import NodeSelector
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import NodeSelectorState

__all__ = ["NodeSelector", "NodeSelectorSettings", "NodeSelectorState"]

"""The network monitor: measures every node's link by its probes, grades it, and says when the grade changes."""

from agents.network_monitor.core import NetworkMonitor
from agents.network_monitor.settings import NetworkMonitorSettings
from agents.network_monitor.state import NetworkMonitorState

__all__ = ["NetworkMonitor", "NetworkMonitorSettings", "NetworkMonitorState"]

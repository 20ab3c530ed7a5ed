"""Links emulated at the socket: a proxy between a node and the server that delays, paces and cuts real connections."""

from bus.shaping.congestion import CongestionControl
from bus.shaping.profiles import PROFILES, BadProfile, LinkProfile, UnknownProfile, profile_named
from bus.shaping.proxy import LinkCounters, ShapingProxy

__all__ = [
    "PROFILES",
    "BadProfile",
    "CongestionControl",
    "LinkCounters",
    "LinkProfile",
    "ShapingProxy",
    "UnknownProfile",
    "profile_named",
]

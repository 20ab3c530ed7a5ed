"""How a round's differences become one: the methods, and how many nodes each needs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Aggregation = Literal["mean", "clip", "trimmed", "median", "krum", "centered_clip"]

LEAST_NODES: Mapping[Aggregation, int] = MappingProxyType(
    {
        "mean": 1,
        "clip": 1,
        # One liar and a majority of others: with two nodes nobody can tell which of them lies.
        "trimmed": 3,
        "median": 3,
        "centered_clip": 3,
        # 2 f + 3 with f = 1 (Blanchard et al., NeurIPS 2017, section 4).
        "krum": 5,
    }
)
"""Nodes that must contribute to a round for a method to tolerate one bad node; what tolerates none needs one."""

APART = 5.0
"""Times the median distance from the result, beyond which a difference is said to stand apart: as for its norm."""

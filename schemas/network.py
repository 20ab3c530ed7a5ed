"""What is known of the links between nodes and the server."""

import enum
from typing import Literal

import msgspec

from schemas.ids import NodeId
from schemas.wire import Delivery, Message, on_wire


class LinkQuality(enum.Enum):
    """Six grades of a link, best first."""

    EXCELLENT = "excellent"
    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    CRITICAL = "critical"
    OFFLINE = "offline"


@on_wire("shoal.network.{node}.probe", Delivery.TELEMETRY)
class LinkProbed(Message, frozen=True, kw_only=True):
    """A node measured a round trip to the server and back."""

    node: NodeId
    sequence: int
    rtt_ms: float | None
    """Milliseconds; null where no answer came before the probe's deadline."""
    retransmitted: float | None = None
    """Fraction of TCP segments sent again on this connection since the last probe; null if unknown."""


@on_wire("shoal.network.{node}.quality", Delivery.LAST_VALUE)
class LinkQualityChanged(Message, frozen=True, kw_only=True):
    """A node's link crossed a quality boundary and stayed there (hysteresis)."""

    node: NodeId
    version: int
    quality: LinkQuality
    previous: LinkQuality | None
    score: float
    """0 to 100: latency 40, loss 30, reliability 30."""
    latency_ms: float
    """Smoothed round trip."""
    jitter_ms: float
    loss: float
    """Fraction of probes lost or retransmitted, 0 to 1."""
    trend: Literal["improving", "stable", "degrading"]
    reason: str


@on_wire("shoal.network.{node}.alert", Delivery.RECORD)
class NetworkAlert(Message, frozen=True, kw_only=True):
    """Something about a link that a person may want to know at once."""

    node: NodeId
    kind: Literal["latency_spike", "loss", "flapping", "offline", "recovered"]
    value: float
    reason: str


class GradeCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many links are of one grade."""

    quality: LinkQuality
    nodes: int


@on_wire("shoal.network.summary", Delivery.LAST_VALUE)
class NetworkSummary(Message, frozen=True, kw_only=True):
    """The fleet's links in one line."""

    version: int
    nodes: int
    grades: tuple[GradeCount, ...]
    mean_score: float
    worst: tuple[NodeId, ...]
    """Up to three nodes with the lowest scores."""
    reason: str

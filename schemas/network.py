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


class LinkAhead(msgspec.Struct, frozen=True, kw_only=True):
    """What a link is expected to be like for a while."""

    from_seconds: float
    """Seconds after the forecast was made; it holds until the next entry's, or the end of the forecast."""
    quality: LinkQuality
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    """The round trip is expected between these two in nine of ten cases."""
    loss: float
    rate: float | None
    """Bytes a second of an upload; null where uploads were not foreseen well enough."""


@on_wire("shoal.network.{node}.forecast", Delivery.LAST_VALUE)
class LinkForecast(Message, frozen=True, kw_only=True):
    """What a link will be like, said only where such forecasts were better so far than "as it is now"."""

    node: NodeId
    version: int
    method: Literal["recurring", "trend", "none"]
    """`none` takes the last forecast back."""
    period_seconds: float = 0.0
    """After which the pattern recurs; 0 without one."""
    until_seconds: float = 0.0
    """How far it reaches, seconds after it was made."""
    ahead: tuple[LinkAhead, ...] = ()
    """Soonest first."""
    made: int = 0
    """Forecasts of this link that were judged so far."""
    right: int = 0
    """Those of them whose interval held what came."""
    gain: float = 0.0
    """Part of the error of "as it is now" that forecasts avoided, of late."""
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

"""What the network monitor knows; all of it serialises."""

import msgspec

from agents.effects import Timer
from agents.network_monitor.outlook import Outlook
from schemas.ids import NodeId
from schemas.network import LinkQuality

UNANSWERED = -1.0
"""In a history of round trips: no answer came."""

SENT_AGAIN = -2.0
"""In a history of round trips: the answer was late by a retransmission, which says nothing of the round trip."""


class Silence(Timer, frozen=True, kw_only=True):
    """Looks whether a node has been silent for too long."""

    node: NodeId


class SummaryDue(Timer, frozen=True, kw_only=True):
    """The summary of the changes since the last one is due."""


class Estimate(msgspec.Struct, kw_only=True):
    """Round trip and loss of one link, from its probes."""

    history: list[float] = []
    """The last probes, oldest first: milliseconds, `UNANSWERED` or `SENT_AGAIN`."""
    unanswered: int = 0
    """How many of `history` are `UNANSWERED`."""
    sent_again: int = 0
    """How many of `history` are `SENT_AGAIN`."""
    smoothed_ms: float = 0.0
    deviation_ms: float = 0.0
    """Mean deviation from it."""
    jitter_ms: float = 0.0
    """Mean difference between one round trip and the next."""
    last_ms: float = 0.0
    """The last round trip that was a sample."""
    measured: int = 0
    """Round trips that the two are made from, up to the point where it doesn't matter any more."""
    held: list[float] = []
    """Late answers in a row, milliseconds: the next one tells whether they were sent again or the link is slower now."""
    retransmitted: float = 0.0
    """Smoothed fraction of TCP segments sent again, where the kernel tells."""
    silent_run: int = 0
    """Unanswered probes in a row."""


class Link(msgspec.Struct, kw_only=True):
    """One node's link: estimate, grade, and what was said of it."""

    node: NodeId

    estimate: Estimate = msgspec.field(default_factory=Estimate)
    scores: list[float] = []
    """The last scores, oldest first, for the trend."""
    sequence: int | None = None
    """Of the last probe; None where the next may have any."""
    heard: float = 0.0
    """When the last probe came (as `now`)."""
    watched: bool = False
    """A `Silence` timer is set."""
    profile_version: int = 0

    quality: LinkQuality | None = None
    version: int = 0
    published_ms: float = 0.0
    """The smoothed round trip that was published last."""
    away_since: float | None = None
    """When the link was last heard of before it went offline."""
    crossing: int = 0
    """Probes in a row over a boundary: positive for the better, negative for the worse."""
    rises: bool | None = None
    """Whether the last change of the grade was for the better."""
    turns: list[float] = []
    """When a change of the grade took back the one before, for flapping."""

    outages: float = 0.0
    """Outages and reconnections, each halved every half-life, as of `outages_at`."""
    outages_at: float = 0.0
    alerted: dict[str, float] = {}
    """When an alert of each kind was last raised."""
    spike_from_ms: float | None = None
    """The round trip before a spike that is not over."""
    spike_since: float = 0.0
    lossy: bool = False
    """The condition of the loss alert holds."""

    outlook: Outlook = msgspec.field(default_factory=Outlook)


class NetworkMonitorState(msgspec.Struct, kw_only=True):
    """All links and the fleet's summary."""

    links: dict[NodeId, Link] = {}
    heard: float = 0.0
    """When the last probe of any node came."""
    summary_version: int = 0
    summary_at: float | None = None
    """When the last summary was published."""
    summary_due: bool = False
    """A `SummaryDue` timer is set."""
    news: dict[NodeId, str] = {}
    """Changes since the last summary, in words."""

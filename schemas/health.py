"""Who is taken to be alive: the failure detector's word on each node, and how nodes help it to find out."""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.ids import JobId, NodeId
from schemas.wire import Answer, Delivery, Message, Request, on_wire

Life = Literal["alive", "suspect", "dead", "left"]
Outcome = Literal["answered", "absent", "silent"]
"""Of a request to a node: it answered; the server has nobody there who would (its connection has ended); nothing came."""


class Here(Answer, frozen=True, kw_only=True):
    """A node's answer to `ReachNode`."""

    node: NodeId
    beats: int = 0
    """Heartbeats that it has sent in this life."""


@on_wire("shoal.nodes.{node}.reach", Delivery.REQUEST, answer=Here)
class ReachNode(Request, frozen=True, kw_only=True):
    """Whether a node's process runs and is connected. Where it isn't connected, the server itself says "no responders"."""

    node: NodeId


@on_wire("shoal.health.{node}.life", Delivery.LAST_VALUE)
class NodeHealth(Message, frozen=True, kw_only=True):
    """The failure detector's word on a node. It is about the node's last heartbeat: whoever has heard a later one may
    forget a word on its death."""

    node: NodeId
    version: int
    state: Life
    life: str = ""
    """Incarnation of the node that was heard last (the middle of its events' ids)."""
    beat: int = 0
    """Sequence number of its last heartbeat."""
    phi: float = 0.0
    """Suspicion: -log10 of the probability that it is alive and silent for as long, from its own heartbeats."""
    silent_seconds: float = 0.0
    """Since its last sign of life."""
    reason: str


@on_wire("shoal.health.{node}.ask", Delivery.TELEMETRY)
class ReachAsked(Message, frozen=True, kw_only=True):
    """The failure detector asks a node to try and reach another over its own connection."""

    node: NodeId
    """Who is to try."""
    suspect: NodeId
    ticket: int
    seconds: Annotated[float, Meta(gt=0, le=60)]
    """After which there is no answer."""


@on_wire("shoal.nodes.{node}.reached", Delivery.TELEMETRY)
class ReachTold(Message, frozen=True, kw_only=True):
    """What came of a node's attempt to reach another."""

    node: NodeId
    """Who tried."""
    suspect: NodeId
    ticket: int
    outcome: Outcome
    rtt_ms: float | None = None
    """Of the answer, through the links of both."""


@on_wire("shoal.health.{node}.stalled", Delivery.RECORD)
class WorkStalled(Message, frozen=True, kw_only=True):
    """A job's process lives, computes, and takes no steps any more. Its node ends it, if it has seen none either."""

    node: NodeId
    job: JobId
    silent_seconds: float
    """Since its last sign of life."""
    usual_seconds: float
    """Mean time between two, learned from this process and its predecessors."""
    reason: str


@on_wire("shoal.health.{node}.figure", Delivery.RECORD)
class FigureChanged(Message, frozen=True, kw_only=True):
    """A figure of a node is not what it uses to be, or has a trend; or is as usual again."""

    node: NodeId
    figure: str
    """Its name, with its unit, as the recorder records it: `step_ms`, `memory_used_bytes`, `gpu0_temperature_c`."""
    kind: Literal["usual", "high", "low", "rising", "falling"]
    value: float
    usual: float
    """Its running median."""
    deviation: float
    """Its robust standard deviation."""
    reason: str


@on_wire("shoal.decisions.failure_detector.watching", Delivery.TELEMETRY)
class DetectorWatching(Message, frozen=True, kw_only=True):
    """The failure detector lives, and whether its own hearing is good: who follows it goes by its own time-outs if this
    word fails to come."""

    nodes: int
    """That it takes for alive."""
    suspects: int
    hears: bool
    """Whether the server answered of late; while it doesn't, nobody is accused."""
    strain: Annotated[int, Meta(ge=0, le=8)] = 0
    """How much its own timers and probes were late of late; it waits longer the higher it is."""

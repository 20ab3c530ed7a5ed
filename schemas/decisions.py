"""Decisions that belong to no job, and what agents say of themselves."""

from typing import Literal

from schemas.ids import AgentName, JobId, NodeId
from schemas.wire import Delivery, Message, on_wire


@on_wire("shoal.decisions.node_selector.node_joined", Delivery.RECORD)
class NodeJoined(Message, frozen=True, kw_only=True):
    """A node's heartbeats began, or came back."""

    node: NodeId
    returned: bool
    absent_seconds: float = 0.0
    reason: str


@on_wire("shoal.decisions.node_selector.node_lost", Delivery.RECORD)
class NodeLost(Message, frozen=True, kw_only=True):
    """A node is taken for dead: its heartbeats stopped, or it said goodbye. Ends every wait for it."""

    node: NodeId
    silent_seconds: float
    reason: str


@on_wire("shoal.decisions.node_selector.quarantined", Delivery.RECORD)
class NodeQuarantined(Message, frozen=True, kw_only=True):
    """A node failed again and again and is left out for a while."""

    node: NodeId
    seconds: float
    failures: int
    reason: str


@on_wire("shoal.decisions.node_selector.released", Delivery.RECORD)
class NodeReleased(Message, frozen=True, kw_only=True):
    """A quarantine is over: the node is on probation, one more failure and it is longer."""

    node: NodeId
    reason: str


@on_wire("shoal.decisions.node_selector.force", Delivery.RECORD)
class ForceNode(Message, frozen=True, kw_only=True):
    """A person's word on a node, from any client: always in, never in, or back to the policy's choice."""

    node: NodeId
    do: Literal["include", "exclude", "neither"]
    reason: str = "a user's choice"


@on_wire("shoal.decisions.optimizer.rolled_back", Delivery.RECORD)
class RolledBack(Message, frozen=True, kw_only=True):
    """The optimizer took back a change that made a job worse."""

    job: JobId
    round: int
    to_version: int
    reason: str


@on_wire("shoal.decisions.optimizer.overhead", Delivery.RECORD)
class AdaptationCost(Message, frozen=True, kw_only=True):
    """What adaptation has cost a job so far."""

    job: JobId
    round: int
    agent_seconds: float
    """CPU seconds of the adapting agents since the job began."""
    run_seconds: float
    """Wall seconds since then."""
    share: float
    """agent_seconds / run_seconds: CPU of the adapting agents in terms of one core."""
    reason: str


@on_wire("shoal.decisions.optimizer.foresight", Delivery.RECORD)
class ForesightJudged(Message, frozen=True, kw_only=True):
    """How the policy `proactive` has done against `reactive`, with which it takes turns: useful samples a second decide."""

    job: JobId
    round: int
    rounds: int
    """Under comparison so far."""
    proactive_seconds: float
    """Seconds of rounds that acted on forecasts."""
    reactive_seconds: float
    """Seconds that doing as `reactive` does takes for as many useful samples, as measured in the turns between."""
    regret_seconds: float
    """The difference: above 0 forecasts have lost, under 0 they have gained."""
    error_seconds: float = 0.0
    """Standard error of it; all of `proactive_seconds` before there was a turn of each."""
    acting: bool
    """Whether forecasts are acted upon in the turn that begins; else `proactive` does what `reactive` does."""
    reason: str


@on_wire("shoal.decisions.{agent}.started", Delivery.RECORD)
class AgentStarted(Message, frozen=True, kw_only=True):
    """An agent's process has come up, or up again."""

    agent: AgentName
    incarnation: int
    resumed: bool
    """It found state of an earlier life."""
    replayed: int
    """Journal entries it went through again."""
    down_seconds: float
    """Since its earlier life's last entry; 0 for a first start."""


@on_wire("shoal.decisions.{agent}.usage", Delivery.TELEMETRY)
class AgentUsage(Message, frozen=True, kw_only=True):
    """What an agent's process has used since it started."""

    agent: AgentName
    cpu_seconds: float
    resident_bytes: int
    inputs: int
    rejected: int
    dropped: int = 0
    """Messages that it, or its connection, had no room for: telemetry, and lines that jobs printed."""
    waiting: int = 0
    """Inputs that wait to be looked at."""


@on_wire("shoal.decisions.{agent}.dropped", Delivery.RECORD)
class MessagesDropped(Message, frozen=True, kw_only=True):
    """More came than there was room for: telemetry, or lines that a job printed, were dropped. Nothing stored was."""

    agent: AgentName
    count: int
    """Since the last of these."""
    total: int
    """Since its process started."""
    reason: str
    """How many for which reason, since its process started."""


@on_wire("shoal.decisions.{agent}.failed", Delivery.RECORD)
class InputFailed(Message, frozen=True, kw_only=True):
    """An agent's core raised on an input; the input was set aside, its state is as before, the agent goes on."""

    agent: AgentName
    input: str
    """Type of the input."""
    reason: str

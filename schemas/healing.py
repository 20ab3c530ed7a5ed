"""Healing: which remedy was ordered for which fault, by whom it is carried out, and what came of it."""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.ids import AgentName, JobId, NodeId
from schemas.wire import Delivery, Message, on_wire

FaultKind = Literal["stalled", "crashed", "out_of_memory", "given_up", "slow", "reducer", "flapping", "agent", "foreseen"]
"""A process that takes no steps; that ended; that ran out of memory; that its node won't start again; that has become
slow; a reducer that others had to take over from; a node that comes and goes; an agent that is silent; a fault that is
expected."""
Remedy = Literal["wait", "restart", "free", "shrink", "retry", "demote", "move", "quarantine", "restart_agent"]
"""Leave it to those who act by themselves; start the job's process anew; have it give memory back; halve its microbatch;
try a job again on a node that gave it up; let another node reduce; keep the node out of the job; out of all jobs; end a
silent agent's process, which its supervisor starts again."""
Chance = Annotated[float, Meta(ge=0, le=1)]


@on_wire("shoal.healing.{node}.ordered", Delivery.RECORD)
class HealingOrdered(Message, frozen=True, kw_only=True):
    """The healer orders a remedy. The node carries out `restart`, the job's process there `free`, the batch controller
    `shrink`, the node selector all others, unless it knows better."""

    node: NodeId
    job: JobId | None = None
    """None: for all that the node does."""
    fault: FaultKind
    remedy: Remedy
    ticket: int
    """Counts the healer's orders."""
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    """How long `move` and `demote` last, unless the node is needed before; a quarantine's time is the selector's."""
    judged_after: float
    """Seconds after which it has failed if nothing is better."""
    chance: Chance
    """Mean of what is believed of this remedy against this fault, from what came of it before."""
    tries: int = 0
    """From which that was learned; 0: an assumption."""
    reason: str


@on_wire("shoal.decisions.healer.restart_agent", Delivery.RECORD)
class AgentRestartOrdered(Message, frozen=True, kw_only=True):
    """The healer asks whoever started an agent to end its process and start it again: it has fallen silent."""

    target: AgentName
    """The silent agent."""
    ticket: int
    silent_seconds: float
    reason: str


@on_wire("shoal.decisions.healer.healed", Delivery.RECORD)
class Healed(Message, frozen=True, kw_only=True):
    """A fault is over, and stayed so for a while."""

    node: NodeId | None = None
    job: JobId | None = None
    target: AgentName | None = None
    """The agent that it was a fault of, if it was an agent's."""
    fault: FaultKind
    remedy: Remedy
    """That was in force; `wait`: nothing was ordered, or not since another remedy had failed."""
    orders: int
    """Given for this fault."""
    seconds: float
    """From the fault until things were well."""
    remedy_seconds: float
    """From the order until things were well."""
    successes: float
    """Of this remedy against this fault so far, older ones counting less."""
    failures: float
    mean_seconds: float
    """Of its successes."""
    deviation_seconds: float
    reason: str


@on_wire("shoal.decisions.healer.healing_failed", Delivery.RECORD)
class HealingFailed(Message, frozen=True, kw_only=True):
    """A remedy that was ordered did not help."""

    node: NodeId | None = None
    job: JobId | None = None
    target: AgentName | None = None
    fault: FaultKind
    remedy: Remedy
    orders: int
    seconds: float
    """Since the fault."""
    successes: float
    failures: float
    final: bool = False
    """Nothing more is tried against this fault."""
    reason: str


@on_wire("shoal.decisions.healer.withheld", Delivery.RECORD)
class HealingWithheld(Message, frozen=True, kw_only=True):
    """A remedy waits, since the budget of its node or of the fleet is spent. Said once a fault."""

    node: NodeId
    job: JobId | None = None
    fault: FaultKind
    seconds: float
    """Until the next order may be given."""
    budget: Literal["node", "fleet"]
    reason: str

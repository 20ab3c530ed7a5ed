"""What the optimizer knows: of each job its phase, its rounds, its configurations; of the agents, what they use."""

from typing import Literal

import msgspec

from agents.effects import Timer
from schemas.ids import AgentName, JobId, NodeId
from schemas.jobs import AdaptationPolicy, JobPhase, SyncMode
from schemas.network import LinkAhead, LinkQuality
from schemas.training import Foreseen, Share, Tuning

Phase = Literal["initialisation", "warm_up", "adaptive", "convergence", "completed"]


class RoundSeen(msgspec.Struct, frozen=True):
    """A closed round."""

    round: int
    rate: float
    """Useful samples a second."""
    loss: float
    seconds: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration and how the job did under it, in the conditions of its time."""

    version: int
    """Of the assignment."""
    rounds: int
    """Rounds measured."""
    rate: float
    """Median samples a second."""
    noise: float
    """Robust standard deviation of the rate."""
    progress: float
    """Fall of the loss per second (negative: it rose)."""


class Said(msgspec.Struct, frozen=True):
    """What a Tuning says, but for its envelope and its words."""

    phase: Phase
    policy: AdaptationPolicy
    adapt: bool
    factor: float
    rollback_to: int | None
    foreseen: tuple[Foreseen, ...] = ()
    ahead: bool = False


class LookAhead(Timer, frozen=True, kw_only=True):
    """The next round is to be planned, with links as they are about to be (policy `proactive`)."""

    job: JobId


class LinkSeen(msgspec.Struct):
    """A node's link: its grade, what its uploads carried, and what is expected of it."""

    quality: LinkQuality | None = None
    rates: list[float] = []
    """Of the last uploads, bytes a second."""
    fresh: int = 0
    """How many of them came under the present grade."""
    size: int = 0
    """Bytes of the last one."""
    by_grade: dict[str, list[float]] = {}
    """The last rates by what the link was expected to be at the time, else by its grade."""
    version: int = 0
    """Of the last forecast."""
    event: str = ""
    """Its id: what is done for it names it as the cause."""
    ahead: tuple[LinkAhead, ...] = ()
    heard: float = 0.0
    """When that came, in terms of `now`."""
    until: float = 0.0
    """How long it reaches."""
    period: float = 0.0
    """Seconds after which it says that things recur; 0 without."""


class Turn(msgspec.Struct):
    """A stretch of a job in which forecasts are acted upon, or not."""

    acting: bool
    after: int
    """The round it begins after."""
    useful: float = 0.0
    """Useful samples of the rounds that count."""
    seconds: float = 0.0
    """Theirs."""
    foreseen: bool = False
    """Something was foreseen in it."""
    closed: bool = False


class Plans(msgspec.Struct):
    """A job's plans by forecasts, and how they did."""

    foreseen: tuple[Foreseen, ...] = ()
    """Of the last plan, whether acted upon or not."""
    acting: bool = True
    turns: list[Turn] = []
    """Oldest first; none is open until something is foreseen."""
    closed_at: float = 0.0
    """When the last round closed, in terms of `now`; 0 before the first."""
    judged: int = 0
    """Rounds that were under comparison."""
    told: int = 0
    """Rounds judged when that was last told."""
    acted: float = 0.0
    """Seconds of rounds that acted on forecasts."""


class Run(msgspec.Struct):
    """A job under way."""

    policy: AdaptationPolicy
    phase: Phase
    state: JobPhase
    state_version: int
    rounds: int
    """Rounds asked for."""
    sync: SyncMode = "round"
    first_round: int = 0
    """Rounds that had closed when the optimizer met the job: warm-up counts from there."""
    round: int = 0
    version: int = 0
    """Of its Tuning."""
    said: Said | None = None
    """What others go by now."""
    seen: list[RoundSeen] = []
    """The last rounds, oldest first."""
    block: list[tuple[int, float, float]] = []
    """(samples, seconds, loss) of closed rounds that are to be remembered as one (`agents.optimizer.blocks`)."""
    validated: list[RoundSeen] = []
    """The last validations, as rounds whose loss is the held-out one."""
    flat_rounds: int = 0
    assignment: int = -1
    """Version in force."""
    shares: dict[NodeId, Share] = {}
    """The configuration in force."""
    efficiency: float = 1.0
    """What one of its samples is useful for, as its assignment says: rates are of useful samples."""
    since: int = 0
    """Rounds after this one were made under comparable conditions and are what a change is compared with."""
    changed_at: int = -1_000_000
    """The round after which the configuration was last changed by choice."""
    open_until: int = -1
    """An event allows stronger adaptation up to this round (policy `reactive`)."""
    event: str = ""
    """That event, in words."""
    snapshots: list[Snapshot] = []
    """Configurations under the present conditions; cleared when nodes or links change."""
    trial_since: int | None = None
    """The round after which a change was made that is being watched."""
    rollbacks: int = 0
    """Those that aren't outweighed by changes that were kept."""
    cooling_until: int = -1
    rollback_to: int | None = None
    """In force until the cooldown ends."""
    plans: Plans = msgspec.field(default_factory=Plans)
    resting_until: int = -1
    """Adaptation rests up to this round because of its cost."""
    began_at: float | None = None
    """When it was first seen running, in terms of `now`."""
    began_cpu: float = 0.0
    """CPU seconds of the adapting agents at that time."""
    looked_at: float = 0.0
    """When the cost was looked at last."""
    looked_cpu: float = 0.0
    looked_round: int = 0


class Usage(msgspec.Struct):
    """CPU time of one agent over all its lives."""

    last: float = 0.0
    """CPU seconds of its present life."""
    total: float = 0.0


class OptimizerState(msgspec.Struct):
    """All of it."""

    runs: dict[JobId, Run] = {}
    usage: dict[AgentName, Usage] = {}
    ended: dict[JobId, int] = {}
    """The last jobs that ended, so that an old message doesn't wake them."""
    unclaimed: dict[JobId, Tuning] = {}
    """Words of an earlier life of the optimizer on jobs not heard of yet."""
    links: dict[NodeId, int] = {}
    """Version of the last word on each link."""
    seen: dict[NodeId, LinkSeen] = {}
    """What plans by forecasts go by."""

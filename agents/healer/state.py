"""What the healer knows; all of it serialises."""

from typing import Literal

import msgspec

from schemas.healing import FaultKind, Remedy
from schemas.ids import AgentName, JobId, NodeId
from schemas.prediction import RiskKind

Phase = Literal["first_aid", "treated", "resting", "proving"]
"""Left to others; an order was given; the next one may not be given yet; all is well, for how long is to be seen."""


class Lesson(msgspec.Struct, kw_only=True):
    """What came of one remedy against one kind of fault, older outcomes counting less."""

    successes: float = 0.0
    failures: float = 0.0
    tries: int = 0
    """All of them."""
    mean: float = 0.0
    """Seconds from order to health, of successes."""
    spread: float = 0.0
    """Sum of their squared deviations, weighted as they are."""


class Bucket(msgspec.Struct, kw_only=True, array_like=True):
    """A budget: what may be spent, as of when."""

    tokens: float
    at: float


class Case(msgspec.Struct, kw_only=True):
    """A fault that is being looked after."""

    fault: FaultKind
    node: str = ""
    job: str = ""
    agent: str = ""
    """Empty where it is none's: so these are no ids."""
    cause: str = ""
    """Id of the event that told of it last."""
    why: str = ""
    """In its words."""
    opened_at: float
    phase: Phase = "first_aid"
    remedy: Remedy = "wait"
    since: float
    """When that remedy came into force."""
    due: float
    """When its time is over."""
    orders: int = 0
    level: int = 0
    """Orders that its back-off counts, those of earlier such faults included."""
    ended_at: float | None = None
    """When the last order's time was over."""
    tried: list[Remedy] = []
    """That have failed; each is tried once before any is again."""
    round: int = 0
    """The job's last closed one at the last sign of the fault: what counts of later ones than the next was made since."""
    risk: RiskKind | None = None
    """What is expected, if it is that."""
    usual: float = 0.0
    """Of what has become slow: samples a second."""
    good: int = 0
    """Good values of it in a row."""
    well_at: float = 0.0
    """Since when all is well."""
    withheld: bool = False
    """It was said that the budget is spent."""


class Job(msgspec.Struct, kw_only=True):
    """A job that goes on."""

    version: int = -1
    running: bool = False
    min_nodes: int = 1
    round: int = 0
    roster_version: int = -1
    nodes: tuple[NodeId, ...] = ()
    reducers: tuple[NodeId, ...] = ()
    quorum: int = 1
    opened: int = 0
    """The last round that was opened, under which term and by whom."""
    term: int = 0
    reducer: str = ""
    falls: dict[NodeId, list[int]] = {}
    """Rounds in which others took over from a node."""


class Level(msgspec.Struct, kw_only=True, array_like=True):
    """What a fault that is over leaves behind."""

    level: int
    at: float


class AgentSeen(msgspec.Struct, kw_only=True):
    """An agent."""

    heard_at: float
    last: str = ""
    """Id of its last word."""
    told: bool = False
    """This silence was acted upon: one silence, one order."""


class HealerState(msgspec.Struct, kw_only=True):
    """All of it."""

    cases: dict[str, Case] = {}
    lessons: dict[str, Lesson] = {}
    """By `fault/remedy`."""
    fleet: Bucket | None = None
    budgets: dict[NodeId, Bucket] = {}
    levels: dict[str, Level] = {}
    """Of faults that are over, by case."""
    jobs: dict[JobId, Job] = {}
    ended: dict[JobId, None] = {}
    yielding: dict[NodeId, int] = {}
    """Nodes that give way to their owners, with the version of that word."""
    foreseen: dict[str, int] = {}
    """Versions of the last words on what is expected, by node and kind."""
    losses: dict[NodeId, list[float]] = {}
    """When a node was lost of late."""
    goodbyes: dict[NodeId, str] = {}
    """Ids of the last ones: losses that they caused are no faults."""
    agents: dict[AgentName, AgentSeen] = {}
    hearing_since: float = 0.0
    tickets: int = 0

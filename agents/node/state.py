"""All that a node's agent knows."""

import msgspec

from agents.node.owner import Need
from agents.node.works import MachineSampled
from schemas.ids import JobId
from schemas.jobs import JobPhase, JobRequest

_AT_WORK = (JobPhase.RUNNING, JobPhase.FINISHING)


class JobHere(msgspec.Struct, kw_only=True):
    """A job that goes on, as this node sees it."""

    request: JobRequest | None = None
    """None until its state is known; a roster may come first."""
    version: int = 0
    phase: JobPhase = JobPhase.QUEUED
    submitted_at: float = 0.0
    roster_version: int = 0
    enrolled: bool = False
    """This node is in the roster."""
    last: bool = False
    """No other node is in the roster, or none was when this one left it: the process here may be the only one to hold what
    has been learnt."""
    at_work: bool = False
    """Its process was started and has not ended."""
    stopping: str = ""
    """Why the process was asked to end; empty: it wasn't."""
    hung: bool = False
    """It is being ended because it hangs."""
    attempt: int = 0
    """Starts so far."""
    failures: int = 0
    """In a row."""
    given_up: bool = False
    started_at: float = 0.0
    retry_at: float | None = None
    log_tokens: float = 0.0
    """Lines that may be passed on now (a token bucket)."""
    log_at: float = 0.0
    log_dropped: int = 0

    @property
    def wanted(self) -> bool:
        """Whether a process of it should be here."""
        return self.request is not None and self.phase in _AT_WORK and self.enrolled and not self.given_up

    @property
    def stays(self) -> bool:
        """Whether its process stays although it is not wanted now: it idles, and holds what was learnt."""
        return self.last and self.phase in _AT_WORK and not self.given_up


class NodeState(msgspec.Struct, kw_only=True):
    """Jobs that go on, and the last look at the machine."""

    jobs: dict[JobId, JobHere] = msgspec.field(default_factory=dict)
    ended: dict[JobId, float] = msgspec.field(default_factory=dict)
    """Jobs known to be over, with when they were submitted: their old rosters start nothing."""
    sequence: int = 0
    """Heartbeats sent."""
    probes: int = 0
    heard_at: float = 0.0
    """When the server answered last."""
    sample: MachineSampled | None = None
    need: Need = msgspec.field(default_factory=Need)
    """What the machine's owner needs."""

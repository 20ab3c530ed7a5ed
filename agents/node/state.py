"""All that a node's agent knows."""

import msgspec

from agents.node.owner import Need
from agents.node.works import MachineSampled
from schemas.ids import JobId
from schemas.jobs import JobPhase, JobRequest, JobState

_AT_WORK = (JobPhase.RUNNING, JobPhase.FINISHING)
ENDED_KEPT = 1024
"""Ended jobs remembered: more than the desk keeps, so that none of their rosters starts anything."""
_NAMELESS_KEPT = 256
"""Rosters kept for jobs whose state has not come in: as many as may be unfinished at once."""


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
    refused: bool = False
    """Given up because of the job's code, before it ran: a person can mend that."""
    started_at: float = 0.0
    progress_at: float = 0.0
    """When its process showed progress last, or the node began to hear again."""
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
    measuring: str = ""
    """The ticket of the measurement that goes on; empty: none does."""
    need: Need = msgspec.field(default_factory=Need)
    """What the machine's owner needs."""

    def make_room(self) -> None:
        """Rosters whose jobs nobody speaks of any more must not pile up."""
        nameless = [job for job, here in self.jobs.items() if here.request is None]
        for job in nameless[: max(0, len(nameless) - _NAMELESS_KEPT + 1)]:
            del self.jobs[job]

    def remember_ended(self, event: JobState) -> None:
        """Note a job that is over, for as long as there is room."""
        self.ended[event.job] = event.submitted_at
        while len(self.ended) > ENDED_KEPT:
            del self.ended[next(iter(self.ended))]

"""All that the desk knows."""

import msgspec

from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase, JobQueued, JobRequest, JobState, JobSummary
from schemas.lengths import most_rounds


class Done(msgspec.Struct, kw_only=True):
    """What the fastest node of each round has done so far, in rounds as they were asked for; at least one a round where
    the desk has lost its memory."""

    samples: float = 0.0
    steps: float = 0.0


class Job(msgspec.Struct, kw_only=True):
    """An accepted job."""

    id: JobId
    request: JobRequest
    submitted_at: float
    order: int
    """Grows with every acceptance: newest first is by this, not by clocks."""
    phase: JobPhase = JobPhase.QUEUED
    reason: str = ""
    version: int = 0
    round: int = 0
    loss: float | None = None
    done: Done = msgspec.field(default_factory=Done)
    roster: tuple[NodeId, ...] = ()
    roster_version: int = 0
    running_since: float | None = None
    """In terms of `now`."""
    waits: bool = False
    """Its roster is empty although nodes of it live: they yield to their owners, or are kept out."""
    failed: dict[NodeId, str] = msgspec.field(default_factory=dict)
    """Nodes on which the job has failed for good, and how."""
    stored_round: int | None = None
    """Round of the newest model or checkpoint in the object store."""
    finish_by: float | None = None
    """When FINISHING is given up, in terms of `now`."""
    purge_at: float | None = None
    ends: int = 0
    """Times it ended: 1 at most."""
    adopted: bool = False
    """Learnt from the desk's own last word instead of a request: an earlier life accepted it."""

    def as_state(self) -> JobState:
        """What is published of it."""
        return JobState(
            job=self.id,
            version=self.version,
            state=self.phase,
            reason=self.reason,
            round=self.round,
            rounds=most_rounds(self.request),
            request=self.request,
            submitted_at=self.submitted_at,
            loss=self.loss,
        )

    def as_summary(self) -> JobSummary:
        """Its row in a list."""
        return JobSummary(
            job=self.id,
            state=self.phase,
            reason=self.reason,
            workload=self.request.workload,
            round=self.round,
            rounds=most_rounds(self.request),
            submitted_at=self.submitted_at,
        )

    @property
    def has_checkpoint(self) -> bool:
        """Whether `resume` finds something of it. An adopted job's checkpoints are inferred from its rounds."""
        every = self.request.checkpoint_every
        by_rounds = self.adopted and (self.phase is JobPhase.COMPLETED or (every > 0 and self.round >= every))
        return self.stored_round is not None or by_rounds


class DeskState(msgspec.Struct, kw_only=True):
    """Jobs by id, and the nodes that jobs wait for."""

    jobs: dict[JobId, Job] = msgspec.field(default_factory=dict)
    order: int = 0
    nodes: dict[NodeId, float | None] = msgspec.field(default_factory=dict)
    """Nodes seen; None: alive, else when it was lost."""
    settled: bool = True
    """False after a start without memory, until the states of known jobs have come in."""
    waiting: list[JobQueued] = msgspec.field(default_factory=list)
    """Jobs from the queue that came in before that."""

    def alive(self) -> list[NodeId]:
        """Nodes whose heartbeats go on, in order of name."""
        return sorted(node for node, lost_at in self.nodes.items() if lost_at is None)

    def unfinished(self) -> list[Job]:
        """Jobs that go on, oldest first."""
        return sorted((job for job in self.jobs.values() if not job.phase.ended), key=lambda job: job.order)

    def under_way(self) -> list[JobId]:
        """Jobs that have nodes, oldest first."""
        return [job.id for job in self.unfinished() if job.phase is not JobPhase.QUEUED]

    def ended(self) -> list[Job]:
        """Jobs that ended, oldest first."""
        return sorted((job for job in self.jobs.values() if job.phase.ended), key=lambda job: job.order)

"""What the appraiser knows; all of it serialises."""

import msgspec

from agents.appraiser.rounds import RoundSeen
from schemas.appraisal import NodesAppraised
from schemas.ids import JobId, NodeId
from schemas.jobs import JobRequest
from schemas.training import Roster

OFFERS_KEPT = 4
"""Offers of a node that are remembered: two may wait for a round, and as many cross with closings."""


class Offer(msgspec.Struct, kw_only=True):
    """A contribution on its way."""

    offered_at: float
    """In terms of `now`."""
    compute: float
    samples: int
    size: int
    received_at: float | None = None
    up: float = 0.0


class Open(msgspec.Struct, kw_only=True):
    """The round that is open."""

    round: int
    began_at: float
    """When it was opened first."""
    opened_at: float
    """When its present reducer opened it."""
    first: NodeId
    """The reducer that opened it first."""
    reducer: NodeId
    term: int
    deadline: float
    expected: tuple[NodeId, ...]
    seen: RoundSeen | None = None
    """It as it closed; it lasts until the next one opens."""


class Job(msgspec.Struct, kw_only=True):
    """A job under way."""

    request: JobRequest | None = None
    state_version: int = 0
    roster: Roster | None = None
    assignment_version: int = 0
    work: dict[NodeId, float] = {}
    """Samples of a round, by the assignment, of those that contribute to each one."""
    length: int | None = None
    """Of the assignment."""
    offers: dict[NodeId, dict[int, Offer]] = {}
    open: Open | None = None
    first: int | None = None
    """The first round that was heard of: caches are cold in a job's first, and of others the beginning is not known."""
    closed: int = 0
    seen: list[RoundSeen] = []
    """Oldest first."""
    appraised: int = 0
    """The round of the last appraisal."""
    said: NodesAppraised | None = None


class AppraiserState(msgspec.Struct, kw_only=True):
    """All jobs under way."""

    jobs: dict[JobId, Job] = {}
    ended: dict[JobId, None] = {}
    """Jobs that are over, oldest first."""

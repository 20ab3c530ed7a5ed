"""What the batch controller knows; all of it serialises."""

import msgspec

from agents.batch_controller.inside import Inside
from agents.batch_controller.noise import Spread
from agents.effects import Timer
from schemas.fragments import parts_of
from schemas.ids import JobId, NodeId
from schemas.jobs import AdaptationPolicy, AverageEncoding, JobRequest
from schemas.network import LinkQuality
from schemas.training import Foreseen, Share

LONG_AGO = -1_000_000
"""A round so long ago that no cooldown lasts from then."""


class Reconsider(Timer, frozen=True, kw_only=True):
    """Looks at a job's shares again, after something that they depend on has changed."""

    job: JobId


class Settled(Timer, frozen=True, kw_only=True):
    """A controller without memory has listened for long enough."""


class Node(msgspec.Struct, kw_only=True):
    """What is known of a node whatever the job."""

    link_version: int = 0
    quality: LinkQuality | None = None
    """Never `offline`: then the last grade before is kept."""
    latency_ms: float = 0.0
    profile_version: int = 0
    slowdown: float = 1.0
    step_time: float = 0.0
    """Seconds that a step of the microbatch asked for is emulated to take, before `slowdown`; 0 for a real machine."""
    accelerated: bool = False
    share: float = 1.0
    """Part of its speed that its owner leaves to jobs."""
    yield_version: int = -1


class Moved(msgspec.Struct, kw_only=True, frozen=True):
    """A tensor that went over a node's link, in seconds."""

    grade: LinkQuality | None
    """The link's, then."""
    fixed: float
    """Expected of such a link for round trips."""
    moving: float
    """Expected of such a link for the bytes."""
    seconds: float
    """What it took."""


class Arrival(msgspec.Struct, kw_only=True, frozen=True):
    """How long after a round's opening a node's difference was there."""

    round: int
    planned: float
    """Seconds that its share was to take."""
    took: float
    """Seconds it took."""


class Opening(msgspec.Struct, kw_only=True, frozen=True):
    """When a round was opened, and by whom."""

    reducer: NodeId
    term: int
    at: float
    again: bool = False
    """By another reducer, or in another term, than at first."""


class Known(msgspec.Struct, kw_only=True):
    """What is known of a node in a job."""

    steps: dict[int, list[float]] = {}
    """The last times of a step in seconds, by microbatch."""
    up: dict[int, list[Moved]] = {}
    """The last uploads, by size in powers of two."""
    down: dict[int, list[Moved]] = {}
    """The last downloads, likewise."""
    reduces: bool = False
    """Its last difference stayed at home: it reduces, and waits for no transfer."""
    planned_step: float = 0.0
    """Seconds a step that the present share was made for; 0 where nobody had measured it."""
    slowed: float = 1.0
    """Factor by which a step takes longer than when the present share was made, because its owner needs the machine."""
    planned_transfer: float = 0.0
    """Seconds of transfers that the present share was made for."""
    misses: int = 0
    """Deadlines missed in a row."""
    arrivals: list[Arrival] = []
    """The last rounds it was waited for in, oldest first."""
    ceiling: int | None = None
    """Largest microbatch that fits its memory, once a larger one didn't."""
    changed: int = LONG_AGO
    """Round in which its microbatch was last changed."""
    rose: bool | None = None
    """Whether that was upwards; None before the first change, and after a change of its link."""
    turns: int = 0
    """Changes in a row that took back the one before: each doubles the cooldown, so that noise can't make it swing."""
    regraded: bool = False
    """Its link has another grade since the last look: what was chosen for the old one is no reason to stay."""
    news: str = ""
    """What happened to it since the last assignment, in words."""


class Kept(msgspec.Struct, kw_only=True, frozen=True):
    """An assignment as it was published."""

    version: int
    roster_version: int
    shares: dict[NodeId, Share]
    average_encoding: AverageEncoding
    round_seconds: float
    deadline_seconds: float
    overhead: float = 0.0
    """Seconds of `round_seconds` that were taken for what is beyond the slowest node's own time."""
    target: float = 0.0
    """Seconds that `goodput` aims at for a round; 0 before it has chosen, and with other strategies."""
    length: int = 0
    """Steps of the starting microbatch that were chosen for a round; 0 where none were, and with `goodput`."""


class Before(msgspec.Struct):
    """What a job was planned with before forecasts were acted upon."""

    kept: Kept
    up: dict[NodeId, dict[int, list[Moved]]]
    down: dict[NodeId, dict[int, list[Moved]]]
    """Transfers of each node, as in `Known`."""


class Job(msgspec.Struct, kw_only=True):
    """A job: the request, the roster, the assignment in force and what led to it."""

    job: JobId
    request: JobRequest | None = None
    state_version: int = 0
    round: int = 0
    """Rounds closed, as far as anyone has said."""
    closed: int = 0
    """The last round whose `RoundClosed` was learned from."""
    roster: tuple[NodeId, ...] = ()
    roster_version: int = 0
    quorum: int = 1
    parameters: int = 0
    """Elements of the model; 0 where nobody has said yet."""
    reducing: tuple[NodeId, ...] = ()
    """Who reduces parts of the rounds, where several do."""
    nodes: dict[NodeId, Known] = {}
    spread: Spread = msgspec.field(default_factory=Spread)
    """Of its nodes' differences."""
    overhead: float = 0.0
    """Seconds by which rounds take longer than the slowest node's own time, smoothed."""
    arrived_at: float | None = None
    """When the last contribution of the round after `closed` was there."""
    closing: float = 0.0
    """Seconds from a round's last contribution to its closing, smoothed."""
    pause: float = 0.0
    """Seconds from a round's closing to the next one's opening, smoothed."""
    closed_at: float | None = None
    """When the round `closed` was heard to be."""
    openings: dict[int, Opening] = {}
    """Of the last rounds."""

    current: Kept | None = None
    history: list[Kept] = []
    """Assignments in force so far, oldest first, the present one last."""
    reconsider: bool = False
    """A `Reconsider` timer is set."""

    tuning_version: int = 0
    policy: AdaptationPolicy | None = None
    adapt: bool | None = None
    """None until the optimizer has spoken."""
    max_factor: float = 2.0
    inside: Inside | None = None
    """Where nodes average in the midst of rounds, too."""
    foreseen: tuple[Foreseen, ...] = ()
    before: Before | None = None
    """From before forecasts were acted upon; None while they aren't."""
    """Links that the optimizer wants planned with as they are about to be."""
    hold_until: int = 0
    """Round until which nothing but the roster changes shares."""

    @property
    def parts(self) -> int:
        """Fragments of the model, which rounds exchange in turn."""
        return parts_of(self.request, self.parameters) if self.request is not None else 1

    @property
    def exchanged(self) -> int:
        """Elements that a round exchanges; 0 where the model's size isn't known."""
        return -(-self.parameters // self.parts)


class BatchControllerState(msgspec.Struct, kw_only=True):
    """All jobs under way, and all nodes."""

    jobs: dict[JobId, Job] = {}
    ended: dict[JobId, None] = {}
    """Jobs that are over, oldest first: what still comes in about them is of no interest."""
    nodes: dict[NodeId, Node] = {}
    silent_until: float = 0.0
    """A controller without memory says nothing before this time."""

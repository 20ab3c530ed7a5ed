"""What the node selector knows: nodes with their life, link and conduct, and jobs with their members."""

from typing import Literal

import msgspec

from schemas.healing import Remedy
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase, JobRequest
from schemas.network import LinkQuality
from schemas.training import Exclusion, Roster

Out = Literal["", "low", "full"]
"""Why a member is left out by choice: not at all, its score is too low, or the job takes no more nodes."""


class Conduct(msgspec.Struct):
    """How a node has behaved, in all jobs together."""

    attempts: float = 0.0
    """Rounds it was expected in, discounted by age."""
    successes: float = 0.0
    strikes: float = 0.0
    """Failures that count towards a quarantine."""
    level: int = 0
    """Quarantines behind it that aren't forgiven."""
    until: float = 0.0
    """When its quarantine ends, in terms of `now`; 0 where it has none."""
    why: str = ""
    """What the quarantine is for."""
    probation: int = 0
    """Successes that it still owes."""

    @property
    def quarantined(self) -> bool:
        """Whether it is in quarantine."""
        return self.until > 0


class NodeRecord(msgspec.Struct):
    """A node of the fleet, alive or not. Records are kept in the order in which nodes were first seen."""

    alive: bool = False
    ever: bool = False
    """Whether it was alive before."""
    heard_at: float = 0.0
    """When its last heartbeat came, by the selector's clock."""
    interval: float = 1.0
    due: float = 0.0
    """When its silence will be too long."""
    watched: float = 0.0
    """When its silence will be looked at: at `due`, or before it and then again."""
    last: str = ""
    """Id of the last sign of its life."""
    life: str = ""
    """Incarnation that speaks."""
    beat: int = 0
    """Sequence number of its last heartbeat."""
    health_version: int = -1
    """Of the failure detector's last word on it."""
    condemned: str = ""
    """Why the failure detector takes it for dead, of whom nothing was heard since; empty: it doesn't."""
    left: str = ""
    """Incarnation that said goodbye."""
    gone: str = "no heartbeat has come from it yet"
    """Why it isn't alive, in words."""
    yielding: str = ""
    """Why it gives way to its owner, in words; empty: it doesn't."""
    yield_version: int = -1
    """Of its last word on that."""
    link: float | None = None
    """Score of its link, 0 to 100."""
    quality: LinkQuality | None = None
    link_version: int = -1
    rate: float | None = None
    """Bytes a second of its uploads, smoothed; None before the first."""
    hint: float = 1.0
    """Its speed by its own description, relative to a plain CPU."""
    site: str = ""
    """Where its owner says that it stands; empty: nobody said."""
    cores: int = 1
    """Jobs that it serves without one being slower for the other."""
    share: float = 1.0
    """Part of its speed that its owner leaves to jobs."""
    drained: str = ""
    """Why the healer keeps it out of all jobs; empty: it doesn't."""
    demoted: bool = False
    """The healer wants others to reduce, where there are any."""
    conduct: Conduct = msgspec.field(default_factory=Conduct)


class Member(msgspec.Struct):
    """A node as one job sees it."""

    ready: bool = False
    """Its job process has said that it is ready, and hasn't ended since."""
    failed: str = ""
    """Why the job has failed on it for good."""
    moved: str = ""
    """Why the healer keeps it out of this job; empty: it doesn't."""
    refused: bool = False
    """It failed because of the job's code, before that ran, which a person can mend."""
    refused_round: int = -1
    """The last round whose contribution of it was refused: a round counts once."""
    busy: bool = False
    """It was seen computing or sending since the last round closed."""
    compute: float = 0.0
    """Seconds of computing that it reported since the last round closed."""
    efficiency: float | None = None
    speed: float | None = None
    """Samples a second, of the node to itself."""
    mixed: bool = False
    """Its next steps were taken partly before and partly after the node got more or less to do besides."""
    low_rounds: int = 0
    """Rounds in a row with a score under the threshold."""
    out: Out = ""
    out_reason: str = ""
    out_at: int = 0
    """The round after which it was left out."""
    times_out: int = 0
    trial_until: int = 0
    """It isn't left out before this round has closed."""
    begun: bool = False
    """It has contributed since its process was started."""
    weighed: int = 0
    """Rounds that the next two are means of."""
    brought: float = 0.0
    """Useful samples a round; less than nothing where waiting for it cost more."""
    spanned: float = 0.0
    """Seconds of those rounds."""
    measured: int = 0
    """The last of them."""
    served: int = 0
    """Rounds it was in, ready."""


class Job(msgspec.Struct):
    """A job that is queued or runs, and the roster it was given last."""

    request: JobRequest
    phase: JobPhase
    state_version: int
    version: int = 0
    """Of the roster; 0 before the first."""
    nodes: tuple[NodeId, ...] = ()
    reducers: tuple[NodeId, ...] = ()
    helpers: tuple[NodeId, ...] = ()
    sites: tuple[tuple[NodeId, ...], ...] = ()
    parameters: int = 0
    """Of its model; 0 until a process has loaded it."""
    quorum: int = 1
    excluded: tuple[Exclusion, ...] = ()
    members: dict[NodeId, Member] = {}
    round: int = 0
    """The last that closed."""
    calm: float = 0.0
    """Seconds of a round in which nobody is missed."""
    calm_rounds: int = 0
    chose_at: int = 0
    """The round after which the roster was last changed by choice."""
    adapt: bool = True
    tuning_version: int = -1
    kept: dict[NodeId, str] = {}
    """Nodes that other jobs have as their share of the fleet, and in whose words."""


class Force(msgspec.Struct, frozen=True):
    """A person's word on a node."""

    do: Literal["include", "exclude"]
    reason: str


class Hold(msgspec.Struct, frozen=True):
    """What the healer ordered of a node, until when in terms of `now`; `job` is empty where it is of all jobs."""

    node: NodeId
    job: str
    remedy: Remedy
    until: float


class NodeSelectorState(msgspec.Struct):
    """All of it."""

    holds: dict[str, Hold] = {}
    """By remedy, node and job."""

    nodes: dict[NodeId, NodeRecord] = {}
    jobs: dict[JobId, Job] = {}
    forced: dict[NodeId, Force] = {}
    ended: dict[JobId, int] = {}
    """The last jobs that ended and the version of their last state, so that an old state doesn't wake them."""
    unclaimed: dict[JobId, Roster] = {}
    """Rosters of an earlier life of the selector, whose job hasn't been heard of yet."""
    heard_at: float = 0.0
    """When any node was heard last."""
    heard_interval: float = 1.0
    """The interval of that node: when it should be heard again."""
    hearing_since: float = 0.0
    """When the selector began to hear, after its start or a time of being deaf: silences count from then."""
    probes: int = 0
    """Sent to the server because nobody was heard; the last one's number."""
    probed_at: float = 0.0
    answers: int = 0
    """Probes in a row that the server answered since any node was heard."""
    detector_at: float | None = None
    """When a failure detector that hears well was heard last; None: never, or it doesn't hear."""
    shared_by: tuple[JobId, ...] = ()
    """The jobs that the fleet was divided among last."""
    shared_at: float = 0.0
    """When a node changed hands last."""
    joined: list[NodeId] = []
    """Nodes that joined and aren't considered yet (see `settle_seconds`)."""

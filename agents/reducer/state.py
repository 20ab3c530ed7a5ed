"""What a reducer knows: the same on every node of a job, so that any of the list can take over."""

import msgspec

from agents.reducer.shard_state import Held, ShardState
from agents.reducer.works import Part, Treated
from schemas.aggregation import Aggregation
from schemas.fragments import parts_of, turn_of
from schemas.ids import JobId, NodeId
from schemas.jobs import AverageEncoding, JobPhase, JobRequest, SyncMode
from schemas.shards import pieces_of
from schemas.training import Average, ContributionOffered, Roster, RoundClosed
from schemas.verification import GradientVerified

KEPT_DIGESTS = (
    4  # versions of the own anchor that others' digests are compared with: more than anybody lags who is in a round
)


def key_of(node: NodeId, round_: int) -> str:
    """Names a node's contribution made for a round, of which there is one at a time."""
    return f"{node}/{round_}"


class Offer(msgspec.Struct, kw_only=True):
    """A contribution that no round lists yet."""

    message: ContributionOffered
    status: str = "offered"
    """`offered`, `collecting`, `here`."""
    attempts: int = 0
    since: float = 0.0
    """When it was heard of, where its pieces go to several nodes."""
    fetching: bool = False
    """This node is getting pieces of it."""
    there: dict[int, Held] = msgspec.field(default_factory=dict)
    """Who has which piece of it."""
    told: bool = False
    """That it is here was said."""
    behind: bool = False
    """Another offer of the same difference came first: this one is not collected for now."""


class Habit(msgspec.Struct, kw_only=True, frozen=True):
    """With `sync = "async"`: how often a node contributes, and how much."""

    round: int
    """The version that counted it last, or that was the newest when it came."""
    gap: float
    """Versions from one contribution to the next, smoothed; 0 before the first."""
    work: float
    """Samples of the last one, discounted by its lateness."""


class ReducerState(msgspec.Struct, kw_only=True):
    """All that a reducer knows."""

    job: JobId
    node: NodeId
    phase: JobPhase = JobPhase.QUEUED
    rounds: int = 0
    aggregation: Aggregation = "mean"
    """How the job wants its differences made one."""
    sync: SyncMode = "round"
    parts: int = 1
    """Fragments of the model, which rounds exchange in turn."""
    request: JobRequest | None = None
    parameters: int = 0
    """Elements of the model; 0 until this node's own is there."""
    absences: dict[NodeId, int] = msgspec.field(default_factory=dict)
    """With `sync = "step"`: deadlines that a node has missed in a row."""
    habits: dict[NodeId, Habit] = msgspec.field(default_factory=dict)
    """With `sync = "async"`: of everybody who has a model."""
    roster: Roster | None = None
    deadline_seconds: float = 0.0
    average_encoding: AverageEncoding = "float32"
    occasional: tuple[NodeId, ...] = ()
    """Nodes that contribute less often than every round: their differences count when they come."""
    returning: tuple[NodeId, ...] = ()
    """Those of them that are to contribute to every round again, until they are in time for one."""
    assignment_version: int = 0
    applied: dict[NodeId, int] = msgspec.field(default_factory=dict)
    """The version of each node that has a model and is not lost."""
    codes: dict[NodeId, str] = msgspec.field(default_factory=dict)
    """What each node runs; only those that run the same as this one can be in its rounds."""
    refused: list[NodeId] = msgspec.field(default_factory=list)
    """Nodes that were told so."""
    digests: dict[int, str] = msgspec.field(default_factory=dict)
    """Digests of the own anchor by version."""
    claims: dict[NodeId, tuple[int, str]] = msgspec.field(default_factory=dict)
    """Each node's last version and digest."""
    accused: dict[NodeId, int] = msgspec.field(default_factory=dict)
    """The version at which a node was last said to differ."""
    offers: dict[str, Offer] = msgspec.field(default_factory=dict)
    """By `key_of` node and round."""
    counted: dict[NodeId, list[int]] = msgspec.field(default_factory=dict)
    """Rounds of a node's contributions that were listed, the last few: a contribution counts once."""
    prints: dict[NodeId, dict[int, str]] = msgspec.field(default_factory=dict)
    """Digests of a node's contributions that were listed, by round, where this node knew their offers; the last few."""
    rejected: dict[NodeId, dict[int, str]] = msgspec.field(default_factory=dict)
    """Digests of what this node refused, by round; the last few. Another difference for such a round may count."""
    closed: int = 0
    """The highest closed round."""
    latest: RoundClosed | None = None
    active: NodeId = ""
    """Who reduces the open round; empty: nobody has said so yet."""
    term: int = 0
    heard: tuple[int, int] = (0, -1)
    """The highest (round, term) that anybody opened: opening again takes a higher term."""
    opened: bool = False
    """Whether this node has the round after `closed` open."""
    opened_at: float = 0.0
    expected: tuple[NodeId, ...] = ()
    prolonged: int = 0
    due: bool = False
    """The deadline has passed: close as soon as there is a quorum."""
    reducing: tuple[str, ...] = ()
    """The offers that are being averaged."""
    made_of: tuple[Part, ...] = ()
    """The same and their weights, as they were decided: what they go by may change before the round closes."""
    extent: float = 1.0
    """How far the anchor goes by what is being averaged."""
    average: Average | None = None
    treated: tuple[Treated, ...] = ()
    """How the offers counted in it."""
    holders: tuple[NodeId, ...] = ()
    announced: bool = False
    """`RoundClosed` is out; whose wins is heard from the bus."""
    following: bool = False
    verified: dict[NodeId, GradientVerified] = msgspec.field(default_factory=dict)
    """What nodes made of the newest version that was verified."""
    doubted: dict[NodeId, int] = msgspec.field(default_factory=dict)
    """The version at which a node's arithmetic was last doubted."""
    ready_at: float | None = None
    """When this node's own model was there."""
    sites: list[tuple[NodeId, ...]] = []
    """Nodes that may speak for each other, of this roster and earlier ones."""
    overtaken: list[tuple[NodeId, int]] = []
    """Offers that can't count any more, since a difference of theirs was listed otherwise; to be freed."""
    cut: ShardState = msgspec.field(default_factory=ShardState)
    """Rounds that several nodes reduce."""

    @property
    def round(self) -> int:
        """The round that is open, or to be opened."""
        return self.closed + 1

    def split(self) -> None:
        """Take note of how many fragments the model has, once the request or its size is known."""
        self.parts = parts_of(self.request, self.parameters) if self.request is not None else 1
        self.cut.pieces = pieces_of(self.request, self.parameters) if self.request is not None else 1

    @property
    def sharded(self) -> bool:
        """Whether differences travel in pieces, which several nodes may reduce."""
        return self.cut.pieces > 1

    def forget_average(self) -> None:
        """What was being averaged isn't any more, or is closed."""
        self.reducing, self.made_of, self.average, self.treated = (), (), None, ()
        self.holders, self.announced = (), False

    def in_turn(self, made_for: int) -> bool:
        """Whether a difference for a round is one of the fragment that the open round exchanges."""
        return turn_of(made_for, self.parts, self.rounds) == turn_of(self.round, self.parts, self.rounds)

    def agrees(self, node: NodeId) -> bool:
        """Whether a node runs the same code as this one, as far as is known."""
        own, other = self.codes.get(self.node, ""), self.codes.get(node, "")
        return not own or not other or own == other

    def _present(self, nodes: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        """Those that have a model and run the same code (see `agrees`); asked with nearly every input of a round."""
        applied, codes, own = self.applied, self.codes, self.codes.get(self.node, "")
        there = [node for node in nodes if node in applied]
        if own:
            there = [node for node in there if codes.get(node, "") in (own, "")]
        return tuple(there)

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Nodes of the roster that have a model and are not known to be lost."""
        return self._present(self.roster.nodes) if self.roster is not None else ()

    @property
    def successors(self) -> tuple[NodeId, ...]:
        """Who may reduce, in order: the live ones of the roster's list."""
        return self._present(self.roster.reducers) if self.roster is not None else ()

    @property
    def over(self) -> bool:
        """No round will be opened any more."""
        return self.phase is not JobPhase.RUNNING or 0 < self.rounds <= self.closed

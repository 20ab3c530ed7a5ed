"""What a trainer knows."""

import msgspec

from agents.trainer.site_state import SiteState
from agents.trainer.validating import Validations
from agents.trainer.works import StepsDone
from schemas.fragments import parts_of
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase, JobRequest, SyncMode
from schemas.shards import pieces_of
from schemas.training import ContributionOffered, Doing, Roster, RoundClosed, Share


class TrainerState(msgspec.Struct, kw_only=True):
    """All that a trainer knows. `version` is -1 until there is a model."""

    job: JobId
    node: NodeId
    version: int = -1
    digest: str = ""
    rounds: int = 0
    """Rounds of the job; 0 until its state is known."""
    phase: JobPhase = JobPhase.QUEUED
    sync: SyncMode = "round"
    request: JobRequest | None = None
    parameters: int = 0
    """Elements of the model; 0 until it is there."""
    validate_every: int = 1
    validate_share: float = 1.0
    target_loss: float | None = None
    validations: Validations = msgspec.field(default_factory=Validations)
    """Of the job, as far as this node has heard of them."""
    checkpoint_every: int = 0
    verify_every: int = 0
    hang_seconds: float = 120.0
    """Silence that the node takes for a hang."""
    roster: Roster | None = None
    share: Share | None = None
    assignment_version: int = 0
    opened: int = 0
    """The highest round that a reducer opened."""
    opened_term: int = -1
    opened_digest: str = ""
    opener: NodeId = ""
    due_since: float = 0.0
    """When steps for the round that is open could begin: it was open, and its anchor was here; in terms of `now`."""
    sample_seconds: float = 0.0
    """Of the last steps; 0 before the first."""
    shards: tuple[NodeId, ...] = ()
    """Who reduces each piece of it."""
    starts: dict[NodeId, tuple[int, str]] = msgspec.field(default_factory=dict)
    """Who opened the first round: under which term, and the digest of the version 0 that it starts from."""
    latest: RoundClosed | None = None
    closed: dict[int, RoundClosed] = msgspec.field(default_factory=dict)
    """Closed rounds that are not applied yet."""
    computing: int = 0
    """The round whose local steps are under way; 0: none."""
    made: int = 0
    """With `sync = "overlap"` or `"async"`: the last round that a difference was made for."""
    ready: StepsDone | None = None
    """Likewise: steps that were taken, whose difference waits for the anchor of the round before."""
    taking: bool = False
    """That difference is being made."""
    busy: str = ""
    """`apply` or `catch_up` while the anchor is being moved."""
    failures: int = 0
    """Fetches that failed in a row."""
    resting: bool = False
    """Waiting for `TryAgain`."""
    offers: dict[int, ContributionOffered] = msgspec.field(default_factory=dict)
    """Differences that no applied round lists yet, by the round they were made for."""
    last_round: int = 0
    """The round that the job ends with, once the desk has said so; the word of its closing may come later."""
    finishing: bool = False
    """The last round is applied and the final model is being taken care of."""
    checkpointed: int = 0
    """Round of the newest checkpoint, or model, in the store."""
    site: SiteState = msgspec.field(default_factory=SiteState)
    """The other nodes of this one's site."""
    stored: bool = False
    """The final model is in the store, or this node is putting it there."""

    @property
    def latest_round(self) -> int:
        """The highest round known to be closed."""
        return self.latest.round if self.latest is not None else 0

    def counts(self, round_: int) -> bool:
        """Whether what was made for a round may still be listed: late differences are, late gradients are not."""
        return self.sync != "step" or round_ > self.latest_round

    def continues(self, closed: RoundClosed) -> bool:
        """Whether the average of the round after this node's anchor goes on from it: version 0 may be this node's alone."""
        return self.version > 0 or self.starts.get(closed.reducer) == (closed.term, self.digest)

    @property
    def at_work(self) -> bool:
        """Whether steps are under way, or taken and not offered yet."""
        return self.computing > 0 or self.ready is not None

    @property
    def overlaps(self) -> bool:
        """Whether the next steps are taken while the last difference travels."""
        return self.sync in ("overlap", "async")

    @property
    def asynchronous(self) -> bool:
        """Whether nobody is waited for."""
        return self.sync == "async"

    @property
    def parts(self) -> int:
        """Fragments of the model, which rounds exchange in turn."""
        return parts_of(self.request, self.parameters) if self.request is not None else 1

    @property
    def pieces(self) -> int:
        """Pieces that differences are cut in; 1 where they travel whole."""
        return pieces_of(self.request, self.parameters) if self.request is not None else 1

    @property
    def next_round(self) -> int:
        """The round to take steps for: the one after the anchor's version; with `sync = "overlap"` or `"async"` the one
        after that, once the difference for it is made."""
        return max(self.version, self.made if self.overlaps else 0) + 1

    @property
    def behind(self) -> bool:
        """The anchor is not the job's newest, or is being moved."""
        return bool(self.busy) or self.resting or max(self.latest_round, self.last_round) > self.version

    @property
    def doing(self) -> Doing:
        """What a trainer does that takes no steps."""
        busy: dict[str, Doing] = {"apply": "applying", "catch_up": "catching_up"}
        return busy.get(self.busy, "waiting")

    @property
    def over(self) -> bool:
        """No further round will be trained."""
        return self.phase is JobPhase.FINISHING or 0 < self.rounds <= self.version

    @property
    def donors(self) -> tuple[NodeId, ...]:
        """Who may have the present anchor, likeliest first, without repetition."""
        named: list[NodeId] = []
        if self.latest is not None:
            named += [self.latest.next_reducer, self.latest.reducer, *self.latest.average.holders]
        if self.roster is not None:
            named += self.roster.reducers
        return tuple(dict.fromkeys(name for name in named if name and name != self.node))

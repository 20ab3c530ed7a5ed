"""A training job while it runs: who is in it, who does how much, and how a round opens and closes."""

from typing import Literal

import msgspec

from schemas.aggregation import Aggregation
from schemas.ids import JobId, NodeId
from schemas.jobs import AdaptationPolicy, AverageEncoding, Encoding
from schemas.network import LinkQuality
from schemas.shards import AverageShard, Piece
from schemas.sites import SiteMember
from schemas.wire import Delivery, Message, on_wire

Doing = Literal["loading", "waiting", "computing", "sending", "reducing", "applying", "catching_up", "storing"]


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is not in the roster, and why."""

    node: NodeId
    reason: str


@on_wire("shoal.training.{job}.roster", Delivery.LAST_VALUE)
class Roster(Message, frozen=True, kw_only=True):
    """Who takes part: a standing document that holds until a higher version supersedes it. Written by the selector."""

    job: JobId
    version: int
    nodes: tuple[NodeId, ...]
    reducers: tuple[NodeId, ...]
    """Best first; on silence of one the next takes over. All are in `nodes`."""
    quorum: int
    """Contributions without which a round doesn't close."""
    helpers: tuple[NodeId, ...] = ()
    """Whose links are fit to reduce a shard of a round, best first. All are in `nodes`."""
    sites: tuple[tuple[NodeId, ...], ...] = ()
    """Nodes that average among themselves before the first of them sends; the next speaks if it is lost. All are ready."""
    excluded: tuple[Exclusion, ...] = ()
    reason: str


MOST_STREAMS = 32
"""Connections of a node's tensors at most: at cubic's pace on a poor link that nearly fills a line of 20 Mbit/s."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One node's part of a round."""

    microbatch: int
    """Samples a step: a power of two."""
    local_steps: int
    encoding: Encoding
    """How its difference is sent."""
    streams: int = 1
    """Connections that its tensors use: several where a lossy link throttles one."""
    every: int = 1
    """Rounds between its contributions: above 1 where its link can't carry one a round."""


@on_wire("shoal.training.{job}.assignment", Delivery.LAST_VALUE)
class Assignment(Message, frozen=True, kw_only=True):
    """Everybody's share, and the time a round may take. Written by the batch controller."""

    job: JobId
    version: int
    roster_version: int
    shares: dict[NodeId, Share]
    average_encoding: AverageEncoding
    """How the average is sent: once, the same bytes for all."""
    round_seconds: float
    """What the round is expected to take."""
    deadline_seconds: float
    """When it closes with whoever is there, counted from its opening."""
    strategy: str
    efficiency: float = 1.0
    """Useful samples a sample, by the model of strategy `goodput`: what one does for the loss, over what one does in a lone
    machine's steps of the microbatch asked for. With other strategies what rounds of that length cost, if they
    may have another."""
    length: int | None = None
    """Local steps of the microbatch asked for that a round is made for, on its fastest node, where other than were asked
    for: nobody need do more. 0: rounds are made for a time, whoever is the fastest."""
    reason: str


class Foreseen(msgspec.Struct, frozen=True, kw_only=True):
    """A link as the next rounds are to be planned with, instead of as it was measured last."""

    node: NodeId
    quality: LinkQuality
    rate: float
    """Bytes a second of a transfer."""


@on_wire("shoal.training.{job}.tuning", Delivery.LAST_VALUE)
class Tuning(Message, frozen=True, kw_only=True):
    """How much adaptation is allowed now. Written by the optimizer; others keep to it."""

    job: JobId
    version: int
    phase: Literal["initialisation", "warm_up", "adaptive", "convergence", "completed"]
    policy: AdaptationPolicy
    adapt: bool
    """False: keep assignments as they are but for nodes that come and go."""
    max_factor: float
    """A microbatch or a number of steps may change by this factor at once; 1 for not at all."""
    rollback_to: int | None = None
    """Version of the assignment to go back to, since what came after it was worse."""
    foreseen: tuple[Foreseen, ...] = ()
    """Links that are about to change (policy `proactive`)."""
    ahead: bool = False
    """Forecasts are acted upon for now. When that ends, shares are again as they were before it."""
    reason: str


@on_wire("shoal.training.{job}.node.{node}.ready", Delivery.RECORD)
class TrainerReady(Message, frozen=True, kw_only=True):
    """A node's job process has the model and holds the anchor of `version`: rounds can expect it now."""

    job: JobId
    node: NodeId
    version: int
    digest: str
    parameters: int
    device: str
    code: str = ""
    """What it runs: hash of the workload's source, versions of torch and Shoal. Nodes of a job must agree in it."""


@on_wire("shoal.training.{job}.node.{node}.node_refused", Delivery.RECORD)
class NodeRefused(Message, frozen=True, kw_only=True):
    """A node runs other code than the reducer's: it can't take part until it runs the same."""

    job: JobId
    node: NodeId
    """The reducer."""
    suspect: NodeId
    reason: str


@on_wire("shoal.training.{job}.node.{node}.round_opened", Delivery.RECORD)
class RoundOpened(Message, frozen=True, kw_only=True):
    """A reducer collects this round's contributions from now on; a higher term supersedes a lower one."""

    job: JobId
    node: NodeId
    """The reducer."""
    round: int
    term: int
    deadline_seconds: float
    expected: tuple[NodeId, ...]
    digest: str = ""
    """Digest of the anchor at version round - 1, as the reducer holds it."""
    shards: tuple[NodeId, ...] = ()
    """Who reduces each piece of the vector; empty where it isn't cut."""
    reason: str


@on_wire("shoal.training.{job}.node.{node}.offer", Delivery.RECORD)
class ContributionOffered(Message, frozen=True, kw_only=True):
    """A node's difference is ready: streamed on `tensor.<job>.<node>.<key>`, and kept there until a round lists it."""

    job: JobId
    node: NodeId
    round: int
    """The round it was made for; (node, round) names the contribution, and it counts once."""
    base_digest: str
    """Digest of the anchor that it is a difference to: of version round - 1, or of a later one where the difference is
    late, or `sync` is `overlap` or `async`."""
    samples: int
    steps: int
    loss: float
    """Mean training loss over its steps."""
    compute_seconds: float
    encoding: Encoding
    key: str
    """The tensor's name at its sender."""
    size: int
    """Bytes."""
    digest: str
    """SHA-256 of the bytes; of the pieces' digests, one after the other in hex, where there are pieces."""
    pieces: tuple[Piece, ...] = ()
    """Where the job's vectors are cut: what each is streamed as, on `tensor.<job>.<node>.delta<number>.<key>`."""
    members: tuple[SiteMember, ...] = ()
    """Of a site's speaker: whose differences for this round it is the average of, its own among them."""


@on_wire("shoal.training.{job}.node.{node}.received", Delivery.TELEMETRY)
class ContributionReceived(Message, frozen=True, kw_only=True):
    """The reducer has a contribution in whole."""

    job: JobId
    node: NodeId
    """The reducer."""
    contributor: NodeId
    round: int
    size: int
    seconds: float
    """From the offer to the last byte."""
    travelled: int | None = None
    """Bytes of it that went over links: not those of pieces that its node reduces itself. Null: all, but for the reducer's
    own."""

    @property
    def carried(self) -> int:
        """Bytes that took `seconds` over its node's link; 0 where all of it stayed."""
        if self.travelled is not None:
            return self.travelled
        return 0 if self.contributor == self.node else self.size


@on_wire("shoal.training.{job}.node.{node}.refused", Delivery.RECORD)
class ContributionRefused(Message, frozen=True, kw_only=True):
    """A contribution that can't be counted: not finite, wrongly shaped, too large, sent twice, or in another's name."""

    job: JobId
    node: NodeId
    """The reducer."""
    contributor: NodeId
    round: int
    reason: str
    digest: str = ""
    """Of the offer."""
    late: int = 0
    """Rounds that a gradient came late, with `sync = "step"`: that is all that is wrong with it."""


class Average(msgspec.Struct, frozen=True, kw_only=True):
    """Where a round's average is and what its bytes must be."""

    key: str
    size: int
    digest: str
    """SHA-256 of the encoded bytes; everyone applies the decoded bytes."""
    holders: tuple[NodeId, ...]
    norm: float = 0.0
    """L2 norm of its parameters before it was encoded; 0 where nobody says."""
    shards: tuple[AverageShard, ...] = ()
    """Where several nodes made it, what each made; all are applied at once. Size, digest (of the shards' digests) and
    holders (of any shard) are then those of all together."""


@on_wire("shoal.training.{job}.node.{node}.average", Delivery.RECORD)
class AverageOffered(Message, frozen=True, kw_only=True):
    """A node has made a round's average, or that of its shard, and streams it; the round closes once a second node holds
    it, or each shard of it."""

    job: JobId
    node: NodeId
    round: int
    term: int
    average: Average
    pieces: tuple[int, ...] = ()
    """What it is the average of; empty: of everything."""
    apart: dict[NodeId, float] = msgspec.field(default_factory=dict)
    """Of a shard, where each node has one vote: squares of the distances of their votes from it."""


@on_wire("shoal.training.{job}.node.{node}.holds", Delivery.RECORD)
class AverageHeld(Message, frozen=True, kw_only=True):
    """A node holds a round's average in whole."""

    job: JobId
    node: NodeId
    round: int
    digest: str


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One contribution as a closed round counted it."""

    node: NodeId
    round: int
    """The round it was made for."""
    late: int
    """Rounds late."""
    samples: int
    weight: float
    """Its part of the average, 0 to 1: samples / (1 + late), over the sum; its node's one vote where each has one. Of a
    model in fragments, lateness counts in turns of the fragment; with `sync = "async"` samples are over the versions from
    one contribution of the node to the next."""
    loss: float
    norm: float = 0.0
    """L2 norm of the difference's parameters, as it came."""
    scale: float = 1.0
    """What it was multiplied by: under 1 where it was clipped, 0 where it was left out."""
    steps: int = 0
    """Local steps that it was made with; 0 where nobody says."""
    remark: str = ""
    """That it was clipped, or stands apart from the others, in words with figures; empty where nothing is to be told."""
    through: NodeId | None = None
    """Its site's speaker, who sent one average for several; `norm`, `scale` and `steps` are that average's."""


@on_wire("shoal.training.{job}.round.{round}.closed", Delivery.RECORD)
class RoundClosed(Message, frozen=True, kw_only=True):
    """A round is over: the one message of this subject that won the compare-and-set."""

    job: JobId
    round: int
    term: int
    reducer: NodeId
    next_reducer: NodeId
    contributions: tuple[Contribution, ...]
    missing: tuple[NodeId, ...]
    """Expected, not there by the deadline."""
    average: Average
    samples: int
    loss: float
    """Mean training loss, weighted by samples."""
    seconds: float
    """From opening to closing."""
    on_time: bool
    """All expected contributions came before the deadline."""
    reason: str
    aggregation: Aggregation = "mean"
    """How the average was made: the job's method, or `clip` where too few nodes contributed for that."""
    extent: float = 1.0
    """How far the anchor goes by the average: 1, and with `sync = "async"` the part of the fleet's work that is in it."""


@on_wire("shoal.training.{job}.node.{node}.steps", Delivery.TELEMETRY)
class StepTimed(Message, frozen=True, kw_only=True):
    """A node timed its local steps."""

    job: JobId
    node: NodeId
    round: int
    steps: int
    samples: int
    seconds: float
    """Compute alone, emulated slowness included."""
    microbatch: int
    loss: float
    met: int = 0
    """Averages inside the node's site between these steps."""


@on_wire("shoal.training.{job}.node.{node}.transfer", Delivery.TELEMETRY)
class TransferTimed(Message, frozen=True, kw_only=True):
    """A tensor went over a node's link."""

    job: JobId
    node: NodeId
    direction: Literal["up", "down"]
    bytes: int
    seconds: float
    streams: int


@on_wire("shoal.training.{job}.node.{node}.progress", Delivery.TELEMETRY)
class TrainingProgress(Message, frozen=True, kw_only=True):
    """A job process is at work (alive is not working): the node that owns it takes a long silence for a hang."""

    job: JobId
    node: NodeId
    round: int
    doing: Doing
    step: int = 0
    steps: int = 0


@on_wire("shoal.training.{job}.node.{node}.applied", Delivery.RECORD)
class RoundApplied(Message, frozen=True, kw_only=True):
    """A node has taken the outer step of a round; the digests of all must agree."""

    job: JobId
    node: NodeId
    version: int
    digest: str
    seconds: float
    """From the round's closing to here, by this node's clock."""


@on_wire("shoal.training.{job}.node.{node}.validated", Delivery.RECORD)
class Validated(Message, frozen=True, kw_only=True):
    """The held-out loss of a round's anchor."""

    job: JobId
    node: NodeId
    round: int
    loss: float
    seconds: float

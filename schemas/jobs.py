"""Jobs: what a client asks of the desk, what it is answered, and where a job stands."""

import enum
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from schemas.aggregation import Aggregation
from schemas.bundles import SourceBundle
from schemas.ids import WORKLOAD_PATTERN, JobId, NodeId
from schemas.wire import Answer, Delivery, Message, Request, on_wire

BatchStrategy = Literal["fixed", "latency", "throughput", "hybrid", "goodput"]
SelectionStrategy = Literal["all", "quality", "top_n", "adaptive", "contribution", "useful"]
AdaptationPolicy = Literal["off", "conservative", "aggressive", "reactive", "proactive"]
Encoding = Literal["float32", "float16", "int8", "int4", "topk"]
AverageEncoding = Literal["float32", "float16", "int8"]
OuterStep = Literal["average", "nesterov"]
Precision = Literal["auto", "float32", "bfloat16"]
SyncMode = Literal["round", "step", "overlap", "async"]

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Power = Annotated[int, Meta(ge=1, le=65_536)]


class JobAnswer(Answer, frozen=True, kw_only=True):
    """The desk's answer to `shoal.jobs.submit`: the job, or the field at fault and the reason."""

    accepted: bool
    job: JobId | None = None
    field: str | None = None
    reason: str | None = None
    retry_after: float | None = None
    """Seconds after which the same request may be accepted; null where it never will."""


@on_wire("shoal.jobs.submit", Delivery.REQUEST, answer=JobAnswer)
class JobRequest(Request, frozen=True, kw_only=True):
    """A job as a client asks for it. Only `kind` and `workload` are compulsory."""

    kind: Literal["train"]
    workload: Annotated[str, Meta(pattern=WORKLOAD_PATTERN, max_length=256)]
    """`module:attribute`, as web servers name an app; the module resolves in the bundle, or else on every node."""
    bundle: SourceBundle | None = None
    """The workload's source, for nodes that trust its submitter (`shoal submit --bundle` makes it). Without one every node
    has to have the module."""
    id: JobId | None = None
    """Makes the request idempotent: the same id and body get the same job, another body is refused."""
    rounds: Count = 10
    """Rounds to train: each is local steps on every node and one outer step; with `sync = "async"` versions of the anchor,
    each with the contributions of about half of the nodes. With a `target_loss` a limit of work, as much
    as so many rounds of `local_steps` steps have: rounds may be shorter and more then, or longer and fewer."""
    min_nodes: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Nodes that must be there before the job starts."""
    max_nodes: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    """Of its share of the fleet beside other jobs: one of weight 2 gets nodes that are twice as fast, together, as those of
    one of weight 1. A job alone has all it may have."""
    seed: int = 0
    microbatch: Power = 8
    """Samples a step to start with."""
    microbatch_min: Power = 1
    microbatch_max: Power = 64
    accumulate: Annotated[int, Meta(ge=1, le=65_536)] = 1
    """Passes that a step is made of at least (gradient accumulation); more by itself where one runs out of memory."""
    precision: Precision = "auto"
    """What the model computes in: `auto` is bfloat16 (autocast) on GPUs that have it, float32 elsewhere and with
    `sync = "step"`. Parameters, optimizer state and differences stay float32."""
    compile: bool = False
    """Run the model's forward through torch.compile; where that fails, the node says so and goes on without."""
    local_steps: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """Steps a round on the fastest node, of the starting microbatch; others take theirs in proportion to their speed. With
    `sync = "step"` everybody takes one."""
    sync: SyncMode = "round"
    """What is averaged: with `round` what local steps added; with `overlap` the same, while the next round's steps are
    under way; with `async` the same, but nobody is waited for, and a round is a version of the anchor with whatever came;
    with `step` gradients, and a round is one optimizer step on the union of the nodes' microbatches, whose sizes are in
    proportion to speed."""
    fragments: Annotated[int, Meta(ge=1, le=16)] | None = None
    """With `sync = "overlap"`: parts of the model, of which each round exchanges the next, with all that was done to it
    since its last turn, and the job's last round all. By default one for every 4 million parameters, 8 at most."""
    reducers: Annotated[int, Meta(ge=0, le=16)] = 1
    """Nodes that reduce a round together at most, each some pieces of the model; 0: as many as are useful by their links.
    One does where differences can't be cut: with `sync = "step"`, with `krum` and `centered_clip`, and with 0 under two
    million parameters (of a fragment)."""
    batch: BatchStrategy = "hybrid"
    """Who does how much. `fixed`: equal work for all. The others give steps in proportion to speed, and move microbatches:
    `goodput` for the most useful progress a second, by the measured noise of gradients; `latency` makes them larger for a
    longer round trip, `throughput` climbs while samples a second improve, `hybrid` weighs the two 60 to 40. Where a
    `target_loss` ends the job, they also choose how many local steps a round has: from one to `local_steps`, with `goodput`
    to four times as many. Else rounds are as they were asked for."""
    selection: SelectionStrategy = "useful"
    adaptation: AdaptationPolicy = "reactive"
    encoding: Literal["auto", "float32", "float16", "int8", "int4", "topk"] = "auto"
    """How differences are sent; `auto` chooses per node from its measured link, with `sync = "step"` always float32. `int4`
    and `topk` are of differences alone: the average travels in `int8` then."""
    aggregation: Aggregation = "clip"
    """How a round's differences become one: `mean` takes each as it is, `clip` shortens one that is far longer than the
    others, the rest give every node one vote and need more nodes (`trimmed`, `median`, `centered_clip` 3, `krum` 5).
    With `sync = "step"` it is `mean`, which `clip` stands for then; the rest are refused."""
    outer: OuterStep = "average"
    outer_lr: Annotated[float, Meta(gt=0, le=10)] = 1.0
    outer_momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Used by `nesterov` alone."""
    checkpoint_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 10
    """Rounds between checkpoints; 0: only the model at the end."""
    validate_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    """Rounds between validations at least; 0: only at the end."""
    validate_share: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """Part of the time that validations may take, a fifth where `target_loss` is near: what would take more is left out,
    but for the last. 1: nothing is."""
    verify_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 20
    """Rounds between checks of arithmetic: every node computes the gradient of the same few samples, and one whose result
    is not the others' is named; 0: never."""
    target_loss: float | None = None
    """End the job early once the validation loss is at or under this."""
    resume: JobId | None = None
    """Begin with the last checkpoint of that job."""
    deadline_seconds: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    """A fixed deadline for rounds instead of the one the batch controller works out. With `sync = "async"` the longest time
    from one version to the next, where anybody contributes."""
    hang_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 120.0
    """A job process that shows no progress for so long is taken for hung and stopped."""
    site_every: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Steps of a node between two averages inside its site (`shoal node --site`), in the midst of a round; 0: as many as
    get most done by what such an average takes; `local_steps` or more: none before a round's end."""
    include: tuple[NodeId, ...] = ()
    """Nodes that must take part whenever they are alive."""
    exclude: tuple[NodeId, ...] = ()
    """Nodes that must not."""


@on_wire("shoal.jobs.cancel", Delivery.REQUEST, answer=JobAnswer)
class CancelRequest(Request, frozen=True, kw_only=True):
    """Ends a job before its time."""

    job: JobId
    reason: str = "cancelled by a user"


class JobPhase(enum.Enum):
    """Where a job stands."""

    QUEUED = "queued"
    """Accepted; not enough nodes yet."""
    RUNNING = "running"
    FINISHING = "finishing"
    """All rounds are closed; the model is being stored."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.CANCELLED)


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A job in one row."""

    job: JobId
    state: JobPhase
    reason: str
    workload: str
    round: int
    rounds: int
    submitted_at: float
    """Seconds since the epoch."""


class JobList(Answer, frozen=True, kw_only=True):
    """The desk's answer to `shoal.jobs.list`, newest first."""

    jobs: tuple[JobSummary, ...]


@on_wire("shoal.jobs.list", Delivery.REQUEST, answer=JobList)
class ListRequest(Request, frozen=True, kw_only=True):
    """Asks for the jobs that the desk knows."""

    stores: ClassVar[bool] = False

    states: tuple[str, ...] = ()
    """Only jobs in these states; all by default."""


@on_wire("shoal.jobs.queue", Delivery.RECORD)
class JobQueued(Message, frozen=True, kw_only=True):
    """A job submitted without waiting for an answer, while no desk is there. The request's `id` is compulsory."""

    request: JobRequest


@on_wire("shoal.jobs.refused", Delivery.RECORD)
class JobRefused(Message, frozen=True, kw_only=True):
    """A queued job that the desk, once there, could not accept."""

    job: str
    field: str
    reason: str
    retry_after: float | None = None
    """Seconds after which the same request may be accepted; null where it never will."""


@on_wire("shoal.jobs.{job}.state", Delivery.LAST_VALUE)
class JobState(Message, frozen=True, kw_only=True):
    """Where a job stands now. Written by the desk alone."""

    job: JobId
    version: int
    state: JobPhase
    reason: str
    round: int
    """Rounds closed so far."""
    rounds: int
    request: JobRequest
    """The whole request, so that whoever starts late knows all of it."""
    submitted_at: float
    loss: float | None = None
    """Training loss of the last round."""


@on_wire("shoal.jobs.{job}.model", Delivery.RECORD)
class ModelStored(Message, frozen=True, kw_only=True):
    """A job's model (or checkpoint) is in the object store, where `shoal fetch` and `resume` find it."""

    job: JobId
    node: NodeId
    round: int
    name: str
    """The object's name in the bucket."""
    size: int
    digest: str
    """SHA-256 of the bytes."""
    final: bool
    loss: float | None = None
    """Validation loss of these parameters."""


@on_wire("shoal.jobs.{job}.report", Delivery.RECORD)
class ReportReady(Message, frozen=True, kw_only=True):
    """The recorder has written a job's report and put it into the object store."""

    job: JobId
    name: str
    size: int
    digest: str

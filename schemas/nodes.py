"""What nodes say of themselves."""

import msgspec

from schemas.ids import JobId, NodeId
from schemas.wire import Delivery, Message, on_wire

ACCELERATION = 4.0
"""How much faster a node with an accelerator is taken to be before it is measured. A small model gains less, a large one
more; cores aren't counted, since a job process computes on one thread."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU as its driver describes it."""

    name: str
    memory_bytes: int
    memory_used_bytes: int = 0
    utilisation_percent: float = 0.0
    temperature_c: float = 0.0
    power_w: float = 0.0
    ecc_corrected: int | None = None
    """Errors of its memory that were corrected since the driver was loaded; None where it doesn't tell."""
    ecc_uncorrected: int | None = None
    """Errors that weren't."""


@on_wire("shoal.nodes.{node}.profile", Delivery.LAST_VALUE)
class NodeProfile(Message, frozen=True, kw_only=True):
    """A node has come up: what it is made of and what it runs."""

    node: NodeId
    version: int
    """Grows with every profile of this node (milliseconds since the epoch at its start)."""
    host: str
    site: str
    """Processes of one site see each other without a network; by default the host, an emulated link is its own site."""
    cpus: int
    memory_bytes: int
    accelerators: tuple[Accelerator, ...] = ()
    python: str = ""
    torch: str = ""
    shoal: str = ""
    emulated_link: str = ""
    """Profile of the emulated link; empty for a real one."""
    slowdown: float = 1.0
    """Emulated slowness: each step takes this many times as long. 1 for a real machine."""
    step_time_ms: float = 0.0
    """Emulated step time: each step is padded to at least this. 0 for a real machine."""
    site_named: bool = False
    """Whether its owner named the site: such nodes of one site average among themselves before one of them sends."""


@on_wire("shoal.nodes.{node}.heartbeat", Delivery.TELEMETRY)
class NodeHeartbeat(Message, frozen=True, kw_only=True):
    """A node is alive. A silence of several intervals is a death."""

    node: NodeId
    sequence: int
    interval: float
    """Seconds until the next one."""
    cpu_percent: float = 0.0
    memory_used_bytes: int = 0
    accelerators: tuple[Accelerator, ...] = ()
    jobs: tuple[JobId, ...] = ()
    """Jobs whose process runs here now."""
    temperature_c: float | None = None
    """Of the hottest sensor of its CPUs; None where there is none that can be read."""
    disk_used_part: float | None = None
    """Of the disk that Shoal's files are on."""


@on_wire("shoal.nodes.{node}.leaving", Delivery.RECORD)
class NodeLeaving(Message, frozen=True, kw_only=True):
    """A node says goodbye: no need to wait for its silence."""

    node: NodeId
    reason: str


@on_wire("shoal.nodes.{node}.yielding", Delivery.LAST_VALUE)
class NodeYielding(Message, frozen=True, kw_only=True):
    """A node gives way to its machine's owner, or goes on. While it yields, jobs on it are slow, or it is in no roster and
    none runs on it."""

    node: NodeId
    version: int
    """Grows from the version of the node's profile in the same life: a newer profile ends what an earlier life said."""
    yielding: bool
    share: float = 0.0
    """Part of its speed that it leaves to jobs while it yields; 0: none of them runs on it."""
    reason: str


@on_wire("shoal.nodes.{node}.pause", Delivery.LAST_VALUE)
class PauseNode(Message, frozen=True, kw_only=True):
    """A person's word to a node, from any client: pause until further notice (also over its restarts), or go on."""

    node: NodeId
    version: int = 0
    """Milliseconds since the epoch by the client's clock, for readers; the node obeys whatever came last."""
    pause: bool
    reason: str = "a user's choice"


@on_wire("shoal.nodes.{node}.work_started", Delivery.RECORD)
class WorkStarted(Message, frozen=True, kw_only=True):
    """A node started the process of a job."""

    node: NodeId
    job: JobId
    attempt: int
    reason: str


@on_wire("shoal.nodes.{node}.work_ended", Delivery.RECORD)
class WorkEnded(Message, frozen=True, kw_only=True):
    """A job's process ended as it should: the job is over, or the node was taken out of it."""

    node: NodeId
    job: JobId
    reason: str


@on_wire("shoal.nodes.{node}.work_failed", Delivery.RECORD)
class WorkFailed(Message, frozen=True, kw_only=True):
    """A job's process died, raised, ran out of memory or hung. The node lives on."""

    node: NodeId
    job: JobId
    attempt: int
    kind: str
    """`import`, `raised`, `out_of_memory`, `killed`, `hung`, `start`; `bundle`: the job's code is missing, damaged or
    forged; `declined`: the node's owner doesn't let it run that code, because of whose or how large it is."""
    code: int
    """Exit status; negative: the signal that ended it."""
    last_lines: tuple[str, ...]
    """The end of what it printed: the traceback's last lines."""
    retry: bool
    """Whether the node starts it again; false: the job has failed on this node."""
    reason: str


@on_wire("shoal.nodes.{node}.mended", Delivery.RECORD)
class NodeMended(Message, frozen=True, kw_only=True):
    """A person has put right what may have kept jobs from a node, such as whom it trusts: they may be tried there again."""

    node: NodeId
    reason: str


@on_wire("shoal.nodes.{node}.log", Delivery.RECORD)
class WorkPrinted(Message, frozen=True, kw_only=True):
    """Lines that a job's process printed, in order, several to a message (`shoal logs JOB`)."""

    node: NodeId
    job: JobId
    lines: tuple[str, ...]

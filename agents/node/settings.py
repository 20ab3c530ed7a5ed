"""What a node is, and what can be set for its agent in `[node]` of `shoal.toml`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from agents.node.limits import JobLimits
from schemas.bundles import MAX_BUNDLE
from schemas.ids import NodeId
from schemas.nodes import Accelerator


class NodeAgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts that the runner finds out about the machine, then what a user may set. Times in seconds."""

    node: NodeId
    host: str = ""
    site: str = ""
    """Processes of one site see each other without a network; a node with an emulated link is a site of its own."""
    site_named: bool = False
    """Whether its owner named the site."""
    cpus: int = 1
    memory_bytes: int = 0
    accelerators: tuple[Accelerator, ...] = ()
    python: str = ""
    torch: str = ""
    shoal: str = ""
    emulated_link: str = ""
    slowdown: float = 1.0
    step_time_ms: float = 0.0

    heartbeat_seconds: float = 1.0
    """A death is known after some beats: at one a second within seconds, for 300 bytes a second."""
    probe_seconds: float = 1.0
    """Between measured round trips; the quality of a link is judged from some tens of them."""
    probe_timeout_seconds: float = 3.0
    """After which a probe counts as lost: six times the worst round trip of an unstable link."""
    sample_every: int = 2
    """Heartbeats between looks at CPU, memory and accelerators: reading a GPU's figures takes milliseconds."""
    attempts: int = 3
    """Failures in a row after which a job is given up on this node: what fails three times is no accident."""
    back_off_seconds: float = 1.0
    """Before the first restart; doubled with each failure in a row."""
    healthy_seconds: float = 120.0
    """A process that ran this long has its earlier failures forgiven: longer than any start takes."""
    startup_seconds: float = 60.0
    """Added to a job's `hang_seconds` until it has begun: torch's import and a cold disk take tens of seconds."""
    deaf_seconds: float = 10.0
    """Without an answer from the server for so long, silence of a job process says nothing about it."""
    log_lines_per_second: float = 50.0
    """Lines of a job's output that are passed on; a progress bar in a loop must not fill the stream."""
    log_burst: int = 500
    """Lines that may come at once: a long traceback of several threads."""
    log_batch: int = 200
    """Lines to a message, of up to a thousand characters: stays well under the server's limit of 1 MiB."""

    bundle_bytes: Annotated[int, Meta(ge=0, le=MAX_BUNDLE)] = MAX_BUNDLE
    """Of a job's code that this node takes at most; less where the line is paid by volume."""
    bundles_kept_bytes: Annotated[int, Meta(ge=0)] = 16 * MAX_BUNDLE
    """Of all jobs' code that stays on the disk, so that it needn't be fetched again: half a gigabyte."""

    limits: JobLimits = JobLimits()
    """Of memory, processor time, files and environment for each job's process."""

    yield_to_owner: bool = False
    """Whether jobs pause while programs that aren't Shoal's need the machine."""
    yield_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Part of its speed that jobs keep while the node yields to its owner's programs, heat or power: they rest between
    steps. 0: they pause, which gives back their memory too. A person's pause always does."""
    slowed_seconds: Annotated[float, Meta(ge=0)] = 60.0
    """How long the machine may stay too hot, or take too much power, with jobs slowed so, before they pause after all: a
    heat sink takes about as long to show what less work brings."""
    owner_above_percent: Annotated[float, Meta(ge=0, le=100)] = 50.0
    """CPU of all cores, or of a GPU, above which the owner needs the machine: a build, a call with video, a game."""
    owner_below_percent: Annotated[float, Meta(ge=0, le=100)] = 25.0
    """Below which the owner no longer does: half of the above, clear of what a desktop uses by itself."""
    max_temperature_c: Annotated[float, Meta(ge=0)] = 85.0
    """Degrees Celsius of a CPU or GPU above which jobs pause: most throttle at 90 to 100. 0: no limit."""
    cooler_c: Annotated[float, Meta(ge=0)] = 5.0
    """Degrees below that limit at which they go on."""
    power_limit_w: Annotated[float, Meta(gt=0)] | None = None
    """Watts of a GPU above which jobs pause; None: no limit."""
    power_back: Annotated[float, Meta(gt=0, le=1)] = 0.8
    """Part of that limit below which they go on: an idle GPU takes far less."""
    yield_after_seconds: Annotated[float, Meta(ge=0)] = 5.0
    """How long a figure must be above its limit: starting a browser takes a few seconds of all cores."""
    resume_after_seconds: Annotated[float, Meta(ge=0)] = 20.0
    """How long it must be below before jobs go on: some times what the start of a job's process costs."""
    resume_longest_seconds: Annotated[float, Meta(ge=0)] = 120.0
    """Each pause that follows shortly on another makes that wait twice as long, up to this: heat that the job itself makes
    comes back each time."""
    calm_seconds: Annotated[float, Meta(ge=0)] = 120.0
    """Time without a pause after which the wait is short again: longer than a machine takes to get hot."""

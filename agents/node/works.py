"""What a node asks of its host: job processes, a look at the machine; and what comes back besides `WorkExited`."""

from agents.effects import Work
from agents.inputs import Result
from schemas.ids import JobId
from schemas.jobs import JobRequest
from schemas.measuring import NodeMeasured
from schemas.nodes import Accelerator

# Exit codes of job processes, beyond 0 (the job is over, or it was asked to stop). Under 64, clear of the shells' own.
EXIT_IMPORT = 3
"""The workload can't be imported: no restart mends that."""
EXIT_RAISED = 4
"""The workload's code raised."""
EXIT_MEMORY = 5
"""Out of memory, the machine's or an accelerator's."""
EXIT_BUS = 6
"""The server can't be reached, or refused the credentials."""
EXIT_BUNDLE = 7
"""The job's code is missing, damaged or forged; the last line says what to do about it. No process was started for it."""
EXIT_DECLINED = 8
"""The node's owner doesn't let it run the job's code; likewise."""
EXIT_NOT_STARTED = 127
"""The process could not be started: the shells' code for a command that isn't there."""

OUT_OF_MEMORY_KILL = "ended by the kernel's out-of-memory killer"
"""Line that the host adds to the last lines of a process that was killed so."""


class TrainingWork(Work, frozen=True, kw_only=True):
    """The process of a training job on this node."""

    job: JobId
    request: JobRequest
    attempt: int


class BundleArriving(Result, frozen=True, kw_only=True):
    """Another part of a job's code has come: slow as the link may be, nothing hangs."""

    job: JobId


class TrustChanged(Result, frozen=True, kw_only=True):
    """The machine's owner has changed whom it trusts. Processes whose code it no longer trusts are being ended."""


class AbortWork(Work, frozen=True, kw_only=True):
    """End the process of another key at once, so that it prints where it hangs; `WorkExited` of that key follows."""

    target: str


class SampleMachine(Work, frozen=True, kw_only=True):
    """Look at the machine once; comes back as `MachineSampled`."""

    owner: bool = False
    """Also at what its owner's programs use, which takes some milliseconds: all processes are listed."""


class MachineSampled(Result, frozen=True, kw_only=True):
    """How busy the machine is."""

    cpu_percent: float
    """Of all cores together, 0 to 100, since the last look."""
    memory_used_bytes: int
    accelerators: tuple[Accelerator, ...] = ()
    temperature_c: float | None = None
    """Of the hottest CPU sensor, degrees Celsius; None where the machine has none that can be read."""
    disk_used_part: float | None = None
    """Of the disk that Shoal's files are on, 0 to 1; None where it can't be asked."""
    owner_cpu_percent: float | None = None
    """Of all cores together, by processes that aren't Shoal's, since the last look; None where that wasn't asked for."""
    owner_gpu_percent: float | None = None
    """Of the GPU that such processes use most; None where no GPU tells."""


class PaceJobs(Work, frozen=True, kw_only=True):
    """Let job processes compute for a part of the time only, or for all of it again."""

    share: float
    """Above 0, up to 1 for all of the time."""


class MeasuringWork(Work, frozen=True, kw_only=True):
    """Take some steps of a job's workload and time transfers, in a process of its own; comes back as `Measured`."""

    ticket: str
    request: JobRequest
    streams: int
    seconds: float
    """After which it is given up."""


class Measured(Result, frozen=True, kw_only=True):
    """What the node has measured of itself, or why it couldn't."""

    found: NodeMeasured

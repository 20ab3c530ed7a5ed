"""What a node tells the process that it starts for a job: one JSON document in a file."""

import msgspec

from runners.jobs.bounds import Bounds
from schemas.ids import JobId, NodeId
from schemas.jobs import JobRequest


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job on one node."""

    job: JobId
    node: NodeId
    server: str
    """URL of the NATS server as this node reaches it; of the emulated link's near end where there is one."""
    request: JobRequest
    token_file: str | None = None
    """The file with the server's token, or with the node's credentials, if it wants either."""
    app_dir: str | None = None
    """Where the workload's module is looked for; by default the working directory."""
    slowdown: float = 1.0
    """Emulated slowness: every step takes this many times as long."""
    step_time_ms: float = 0.0
    """Emulated speed: a step of the job's starting microbatch takes at least this long, others in proportion."""
    pace_file: str | None = None
    """Where the node says what part of the time the process may compute in (`runners.jobs.pace`)."""
    bounds: Bounds = Bounds()
    """What its process gets of the machine."""
    clock_skew: float = 0.0
    """Seconds by which its clock is put ahead, where its node's is wrong on purpose."""
    device: str | None = None
    """A torch device; by default CUDA where there is some, else the CPU."""

"""What a machine's owner lets the processes of jobs have, `[node.limits]` in `shoal.toml`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Confine = Literal["bundles", "all", "off"]
CONFINE: tuple[Confine, ...] = ("bundles", "all", "off")


class JobLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of each job process by itself. None: no limit of Shoal's."""

    confine: Confine = "bundles"
    """Whose processes the kernel keeps to Python, the system's libraries, a folder of their own and the server's port:
    those of jobs that bring their code, of all jobs, or of none. Linux 5.13 or later, by Landlock; the port from 6.7."""
    read: tuple[str, ...] = ()
    """Folders and files that confined processes may read besides, such as a data set."""
    memory_gb: Annotated[float, Meta(gt=0)] | None = None
    """Private memory (RLIMIT_DATA, Linux 4.7); what goes beyond fails as out of memory, and the node tries smaller passes.
    A process has 0.5 before its model."""
    cpu_hours: Annotated[float, Meta(gt=0)] | None = None
    """Processor time of one process, after which it is ended (RLIMIT_CPU)."""
    file_gb: Annotated[float, Meta(gt=0)] | None = None
    """The largest file that it may write (RLIMIT_FSIZE)."""
    environment: tuple[str, ...] = ()
    """Variables that confined processes get besides those that Python, torch and drivers need; others have all of them."""

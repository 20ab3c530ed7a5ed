"""What can be set for the desk, in `[job_desk]` of `shoal.toml`."""

import msgspec


class JobDeskSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of what the desk keeps, and how long it waits."""

    max_unfinished: int = 256
    """Jobs queued or under way at once; a further one is refused. Each costs every agent a few kilobytes."""
    keep_ended: int = 512
    """Ended jobs that are remembered, for lists and `resume`; the oldest goes first, with all the streams hold of it."""
    retention_seconds: float = 86_400.0
    """After a job's end, until its training messages are purged: a day to look at what happened."""
    finishing_seconds: float = 120.0
    """For the model to be stored after the last round: a gigabyte takes a minute over a home link."""
    return_seconds: float = 3_600.0
    """How long a lost node counts as one that may come back, when a failing job's chances are judged."""
    settle_seconds: float = 1.0
    """After a start without memory, until jobs from the queue are looked at: the states of known jobs arrive first."""

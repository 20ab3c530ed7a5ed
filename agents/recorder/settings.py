"""What can be set for the recorder, in `[recorder]` of `shoal.toml`."""

import msgspec


class RecorderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept, and how long. Times in seconds."""

    window_seconds: float = 60.0
    """Of rolling statistics: some sixty heartbeats, so that a mean means something and a change shows soon."""
    average_seconds: float = 30.0
    """Time constant of the exponentially weighted average: what is older than a minute weighs under a seventh."""
    max_nodes: int = 4096
    """Nodes whose statistics are kept; whoever was silent longest goes first. One takes about a kilobyte."""
    settle_seconds: float = 2.0
    """From a job's end to its report: the last words of its nodes come in."""
    report_attempts: int = 3
    report_retry_seconds: float = 10.0
    """Between attempts to write a report, for a server or a disk to come back."""
    history_days: float = 90.0
    """Age at which history is deleted."""
    history_megabytes: float = 2048.0
    """Size of the history beyond which the oldest is deleted: some five million events."""

"""What comes into a core besides messages and timers: requests, and the results of effects."""

import msgspec

from schemas.health import Outcome
from schemas.ids import NodeId
from schemas.wire import Request


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an effect, as an input. Hosts of special work define subclasses of their own."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request, decoded. Answer with `Reply(to=asked.reply_to, ...)`."""

    reply_to: str
    request: Request
    at: float
    """Seconds since the epoch by the host's clock, for records that people read."""


class ProbeReturned(Result, frozen=True, kw_only=True):
    """A probe's outcome."""

    sequence: int
    rtt: float | None
    """Seconds; None where it was lost."""
    retransmitted: float | None = None
    """Fraction of TCP segments sent again since the last probe, where the kernel tells."""


class Reached(Result, frozen=True, kw_only=True):
    """What came of a `Reach`."""

    node: NodeId
    ticket: int
    outcome: Outcome
    rtt: float | None = None
    """Seconds until it answered."""


class WorkExited(Result, frozen=True, kw_only=True):
    """A work's process (or task) has ended."""

    key: str
    code: int
    """Exit status; negative: the signal."""
    last_lines: tuple[str, ...] = ()


class WorkLines(Result, frozen=True, kw_only=True):
    """Lines that a work's process printed."""

    key: str
    lines: tuple[str, ...]


class Woken(Result, frozen=True, kw_only=True):
    """The first input of every life of a core, after its state was restored, if it had any."""

    incarnation: int
    resumed: bool
    at: float
    """Seconds since the epoch."""


class Stopping(Result, frozen=True, kw_only=True):
    """The host was asked to end: last words, then nothing more comes in."""

    reason: str

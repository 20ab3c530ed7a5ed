"""What a core may ask of its host. Effects are data: equal inputs give equal effects, byte for byte."""

from typing import Any

import msgspec

from schemas.ids import NodeId
from schemas.wire import Answer, Message


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """A deadline or a staleness. Its fields are its key: setting an equal timer again moves it."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of heavy work that a host starts for its core (a process, torch, a fit). Subclasses say what it needs."""


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """Publish a message. `cause` is the id of the event that led to it."""

    message: Message
    cause: str = ""
    first: bool = False
    """Only if its subject has no message yet (compare-and-set); lost races are silent: the winner's message comes in."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer a request, after everything this input led to is stored."""

    to: str
    """`Asked.reply_to`"""
    answer: Answer


class SetTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Bring `timer` in as an input at time `at`, in the terms of `now`. Replaces an equal timer."""

    timer: Timer
    at: float
    cause: str = ""


class CancelTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Forget a timer; nothing happens where there is none."""

    timer: Timer


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Measure one round trip to the server; comes back as `ProbeReturned`."""

    sequence: int
    timeout: float
    """Seconds after which it counts as lost."""


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Ask a node whether it is there, over this host's own connection; comes back as `Reached`."""

    node: NodeId
    ticket: int
    timeout: float
    """Seconds after which there was no answer."""


class StartWork(msgspec.Struct, frozen=True, kw_only=True):
    """Start a piece of work under a key; its results come back as inputs. A key at work already is left alone."""

    key: str
    work: Work
    reason: str
    cause: str = ""


class StopWork(msgspec.Struct, frozen=True, kw_only=True):
    """Stop the work of a key, gently and then by force; `WorkExited` follows."""

    key: str
    reason: str
    cause: str = ""


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """A row of history."""

    table: str
    row: dict[str, Any]


class Purge(msgspec.Struct, frozen=True, kw_only=True):
    """Remove what the streams hold on subjects that match a filter: a job that ended long ago."""

    subjects: str
    reason: str


Effect = Publish | Reply | SetTimer | CancelTimer | Probe | Reach | StartWork | StopWork | Store | Purge

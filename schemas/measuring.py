"""Measuring a fleet before a job: what each machine computes, and what its link carries."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.ids import TOKEN_PATTERN, NodeId
from schemas.jobs import JobRequest
from schemas.training import MOST_STREAMS
from schemas.wire import Delivery, Message, on_wire

Ticket = Annotated[str, Meta(pattern=TOKEN_PATTERN)]

PATIENCE = 120.0
"""Seconds for a node to measure itself: an import of torch on a cold disk, some steps, transfers both ways."""


@on_wire("shoal.nodes.{node}.measure", Delivery.RECORD)
class MeasureNode(Message, frozen=True, kw_only=True):
    """Any client's wish that a node measure itself: some steps of a job's workload, and a transfer to the server and back.

    A node that is at work for a job, or gives way to its owner, says so instead.
    """

    node: NodeId
    ticket: Ticket
    """The answer's, so that whoever asked knows it."""
    request: JobRequest
    """The job whose steps are taken: its workload and microbatch, and how a step is made. Nothing is trained."""
    streams: Annotated[int, Meta(ge=1, le=MOST_STREAMS)] = 1
    """Connections of the transfers."""
    seconds: Annotated[float, Meta(gt=0, le=3600)] = 120.0
    """After which it is given up, the import of torch included."""


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that was timed."""

    bytes: int
    seconds: float


@on_wire("shoal.nodes.{node}.measured", Delivery.RECORD)
class NodeMeasured(Message, frozen=True, kw_only=True):
    """What a node has measured of itself, or why it has not."""

    node: NodeId
    ticket: Ticket
    problem: str = ""
    """Why it was not measured, or not in whole; empty: it was."""
    device: str = ""
    parameters: int = 0
    """Elements of the model."""
    microbatch: int = 0
    """Samples a step."""
    step_seconds: tuple[float, ...] = ()
    """Of single steps, emulated slowness included."""
    up: tuple[Carried, ...] = ()
    """To the server."""
    down: tuple[Carried, ...] = ()
    """From it."""
    streams: int = 1
    """Connections that the transfers used."""

"""Nodes whose anchor isn't the job's: one that has other bits, one that was behind."""

from schemas.ids import JobId, NodeId
from schemas.wire import Delivery, Message, on_wire


@on_wire("shoal.training.{job}.node.{node}.mismatch", Delivery.RECORD)
class DigestMismatch(Message, frozen=True, kw_only=True):
    """A reducer found a node whose anchor has other bits than its own at the same version."""

    job: JobId
    node: NodeId
    """The reducer."""
    suspect: NodeId
    version: int
    expected: str
    found: str


@on_wire("shoal.training.{job}.node.{node}.caught_up", Delivery.RECORD)
class CaughtUp(Message, frozen=True, kw_only=True):
    """A node that was behind has the present anchor."""

    job: JobId
    node: NodeId
    version: int
    donor: str
    """The node that gave it, or `store`."""
    bytes: int
    seconds: float
    reason: str

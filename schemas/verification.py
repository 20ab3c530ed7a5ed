"""Messages about arithmetic: nodes that compute the same gradient must get the same one."""

import msgspec

from schemas.ids import JobId, NodeId
from schemas.wire import Delivery, Message, on_wire


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """A gradient in a few numbers: its elements in order, cut into blocks of equal size; and what it was computed of."""

    batch: str
    """SHA-256 of the samples, in hexadecimal: only those that agree in it can be compared."""
    precision: str
    """What the model was computed in: `float32`, `tf32` (NVIDIA's convolutions), `bfloat16`."""
    loss: float | None
    """None: it was not finite, nor is the gradient, which then has no blocks."""
    norms: tuple[float, ...]
    """L2 norm of each block."""
    signed: tuple[float, ...]
    """Sum of each block with every element's sign turned or not by a fixed pattern, over the square root of its size."""
    seconds: float


@on_wire("shoal.training.{job}.node.{node}.verified", Delivery.TELEMETRY)
class GradientVerified(Message, frozen=True, kw_only=True):
    """A node computed the gradient that all nodes compute of this version: same anchor, same samples."""

    job: JobId
    node: NodeId
    version: int
    gradient: Fingerprint


@on_wire("shoal.training.{job}.node.{node}.doubted", Delivery.RECORD)
class ArithmeticDoubted(Message, frozen=True, kw_only=True):
    """A reducer found that a node's gradient is not what the others get of the same parameters and samples."""

    job: JobId
    node: NodeId
    """The reducer."""
    suspect: NodeId
    version: int
    deviation: float | None
    """The largest deviation of a block from the nodes' median, as a part of that block's norm; None: not finite."""
    tolerance: float
    compared: int
    """Nodes whose gradients were compared."""
    reason: str

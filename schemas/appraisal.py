"""What each machine of a job is worth to it."""

from typing import Literal

import msgspec

from schemas.ids import JobId, NodeId
from schemas.wire import Delivery, Message, on_wire

Verdict = Literal["helps", "hinders", "unclear", "early"]
"""`unclear`: the interval includes no difference at all; `early`: too few rounds to say."""


class NodeValue(msgspec.Struct, frozen=True, kw_only=True):
    """What one node is worth: the job with it, as it was seen, against the job without it, as it is modelled.

    The bounds are those of a 90 % interval (the rounds seen, drawn again and again; and what the model is off by). All
    figures are 0 with `early`.
    """

    node: NodeId
    verdict: Verdict
    rounds: int
    """Rounds that this is judged by."""
    samples_per_second: float = 0.0
    """Useful samples that it adds a second; negative: the others make more without it."""
    low: float = 0.0
    high: float = 0.0
    without: float = 0.0
    """Change of the job's useful samples a second if it were gone: 0.12: 12 % more, -0.3: 30 % less."""
    without_low: float = 0.0
    without_high: float = 0.0


@on_wire("shoal.training.{job}.value", Delivery.LAST_VALUE)
class NodesAppraised(Message, frozen=True, kw_only=True):
    """Whether each machine of a job helps it. For people: nobody's decisions depend on it."""

    job: JobId
    version: int
    round: int
    """The last one that is counted."""
    rounds: int
    """Rounds that were looked at."""
    samples_per_second: float
    """Useful samples: those that rounds counted, a late one by n rounds as 1 / (1 + n)."""
    nodes: tuple[NodeValue, ...]
    reason: str

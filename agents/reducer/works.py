"""The heavy work that a reducer asks of its host, and how it ends."""

import msgspec

from agents.effects import Work
from agents.inputs import Result
from schemas.aggregation import Aggregation
from schemas.ids import NodeId
from schemas.jobs import AverageEncoding
from schemas.training import Average


class Follow(Work, frozen=True, kw_only=True):
    """Take in what is streamed of one kind of tensor from now on; stopping it ends that."""

    kind: str


class Collect(Work, frozen=True, kw_only=True):
    """Get a contribution in whole: what was streamed, and what is missing from its node. Check and decode it."""

    contributor: NodeId
    round: int
    key: str
    size: int
    digest: str


class Collected(Result, frozen=True, kw_only=True):
    """A contribution is here, whole and sound."""

    contributor: NodeId
    round: int
    size: int
    seconds: float
    faint: bool = False
    """So small next to the parameters that rounding alone may bring the same bytes about again."""


class CollectFailed(Result, frozen=True, kw_only=True):
    """A contribution could not be had; `unsound`: its bytes came and can't be counted (size, shape, not finite)."""

    contributor: NodeId
    round: int
    reason: str
    unsound: bool = False


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One contribution of an average and its weight."""

    node: NodeId
    round: int
    weight: float
    """0 to 1; the weights of an average sum to 1."""
    samples: int = 0
    steps: int = 0


class Reduce(Work, frozen=True, kw_only=True):
    """Average collected contributions, encode the result once, keep it as tensor `average/<round>-<term>` and stream it."""

    round: int
    term: int
    parts: tuple[Part, ...]
    encoding: AverageEncoding
    aggregation: Aggregation = "mean"
    extent: float = 1.0
    """What the average is multiplied by, before it is encoded."""


class Treated(msgspec.Struct, frozen=True, kw_only=True):
    """How a part of an average counted; the fields are `Contribution`'s."""

    node: NodeId
    round: int
    weight: float
    norm: float
    scale: float = 1.0
    remark: str = ""


class Reduced(Result, frozen=True, kw_only=True):
    """The average is made, kept and on its way."""

    round: int
    term: int
    average: Average
    treated: tuple[Treated, ...] = ()
    """One for each part; none where the parts' weights say it all."""


class Release(Work, frozen=True, kw_only=True):
    """Free collected contributions that were counted or are not this node's to count any more."""

    parts: tuple[tuple[NodeId, int], ...]

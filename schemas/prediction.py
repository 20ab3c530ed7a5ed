"""Faults that are expected of nodes before they are there, and how often such expectations have come true."""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.ids import NodeId
from schemas.wire import Delivery, Message, on_wire

RiskKind = Literal["memory", "heat", "disk", "link", "speed", "gpu"]
"""Memory about to run out; a machine about to be too hot; a disk about to be full; a link about to break; training about to
be half as fast as it was; an accelerator about to fail, by the errors of its memory."""
Basis = Literal["trend", "model"]
"""The trend carried on, by an assumption that is in the settings' documentation; or a model learned from history."""
Part = Annotated[float, Meta(ge=0, le=1)]


@on_wire("shoal.health.{node}.risk.{kind}", Delivery.LAST_VALUE)
class FaultForeseen(Message, frozen=True, kw_only=True):
    """A fault is expected of a node, or no longer. The healer has such nodes spared; it ends nothing for that."""

    node: NodeId
    kind: RiskKind
    version: int
    """Milliseconds since the epoch: later ones count."""
    expected: bool
    chance: Part
    """That the fault comes within `horizon_seconds`."""
    threshold: Part
    """From which it is told."""
    horizon_seconds: float
    figure: str
    """That it is foreseen from."""
    basis: Basis
    held_out: bool = False
    """Nothing is done about it, by lot (of `speed`, always): only so can it be learned how often such faults come."""
    reason: str


@on_wire("shoal.decisions.predictor.judged", Delivery.RECORD)
class PredictionJudged(Message, frozen=True, kw_only=True):
    """How well faults of a kind were foreseen of late, where nothing was done about them; and what follows for the
    threshold."""

    kind: RiskKind
    threshold: Part
    """From now on."""
    precision: Part | None = None
    """Part of what would have been told at this threshold that came; None: nothing would have been."""
    recall: Part | None = None
    """Part of what came that would have been told; None: nothing came."""
    outcomes: int
    """Looked at since the beginning."""
    faults: int
    """Of these, with the fault."""
    basis: Basis
    reason: str


@on_wire("shoal.decisions.predictor.learned", Delivery.RECORD)
class PredictorLearned(Message, frozen=True, kw_only=True):
    """A model of a kind of fault was fitted to the recorded history, or could not be: then the trend stands in."""

    kind: RiskKind
    basis: Basis
    """That is used from now on."""
    examples: int
    """Of the history."""
    faults: int
    """Among them."""
    loss_model: float | None = None
    """Mean logarithmic loss of the model on the last part of the history, to which it was not fitted; None: no model."""
    loss_trend: float | None = None
    """The trend's there."""
    reason: str

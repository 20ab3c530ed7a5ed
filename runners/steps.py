"""What goes through a host: an input to be handled, and the step that it becomes."""

from dataclasses import dataclass

import msgspec

from agents.effects import Effect, Publish, Purge, Store
from bus.port import Receipt
from schemas.wire import Delivery, Message, wire_of


@dataclass(eq=False, slots=True)
class Input:
    """One thing to be handled."""

    event: msgspec.Struct
    cause: str = ""
    """The id of the event behind it; for a message its own."""
    receipt: Receipt | None = None
    """What to acknowledge afterwards; None for telemetry and whatever is no message."""

    @property
    def id(self) -> str:
        """What a second delivery is known by; empty for inputs that don't come twice."""
        return self.cause if self.receipt is not None else ""


@dataclass(eq=False, slots=True)
class Step:
    """One input that was handled, with the effects it led to."""

    number: int
    """Of the input, counted over all lives of the core."""
    entry: Input
    effects: list[Effect]
    identity: str
    """Names the input for streams: where its effects are carried out again, they bear the same names."""


def identity_of(event: msgspec.Struct, cause: str, incarnation: int, number: int, journaled: bool) -> str:
    """The name of an input among all that its agent ever handles.

    A message goes by its id; whatever else by its number. Only a journal lets a later life redo what an earlier one
    decided; without one the same message may lead to something else next time, so the name is that of the life too.
    """
    life = "" if journaled else f"{incarnation}:"
    if isinstance(event, Message) and cause:
        return f"{life}{cause}"
    return f"{incarnation}.{number}"


def lasting(effect: Effect) -> bool:
    """Whether an effect still makes sense when a later life carries it out: answers, probes and works don't."""
    if type(effect) is Publish:
        return wire_of(type(effect.message)).delivery is not Delivery.TELEMETRY
    return type(effect) in (Store, Purge)

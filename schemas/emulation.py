"""Links that are emulated on purpose, and told to change; whoever shows them says so."""

from typing import Literal

from schemas.ids import NodeId
from schemas.wire import Delivery, Message, on_wire


@on_wire("shoal.emulation.{node}.order", Delivery.TELEMETRY)
class LinkOrder(Message, frozen=True, kw_only=True):
    """Asks the emulator of a node's link for a change. Any client may publish one: `{"node": "n", "do": "spike"}`."""

    node: NodeId
    do: Literal["profile", "spike", "disconnect", "heal"]
    profile: str = ""
    """For `profile`: perfect, good, average, poor or unstable."""
    extra_ms: float = 800.0
    """For `spike`: added to the round trip."""
    seconds: float = 5.0
    """For `spike` and `disconnect`: how long."""
    reason: str = ""


@on_wire("shoal.emulation.{node}.changed", Delivery.RECORD)
class EmulatedLinkChanged(Message, frozen=True, kw_only=True):
    """An emulated link was changed on order: a fault that was injected, not one that happened."""

    node: NodeId
    do: str
    profile: str
    """The profile in force now."""
    reason: str

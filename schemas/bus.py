"""What the bus says of itself."""

from schemas.wire import Delivery, Message, on_wire


@on_wire("shoal.bus.rejected", Delivery.TELEMETRY)
class MessageRejected(Message, frozen=True, kw_only=True):
    """Somebody received bytes that are not the message their subject promises; they were dropped, nothing stopped."""

    subject: str
    field: str
    """JSON path of the field at fault; `$` where the whole doesn't decode."""
    reason: str
    size: int
    """Bytes received."""
    count: int
    """How many this receiver has rejected since it started, this one included."""


@on_wire("shoal.bus.disturbed", Delivery.TELEMETRY)
class BusDisturbed(Message, frozen=True, kw_only=True):
    """A participant lost the server, or messages (slow consumer, permission), and says so once it can speak again."""

    kind: str
    """`reconnected`, `slow_consumer`, `permission`, `gap`."""
    reason: str
    seconds: float = 0.0
    """How long the server was out of reach."""

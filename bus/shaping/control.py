"""Orders to an emulated link: as JSON lines, as scheduled changes, or as messages; all end in `LinkControl.carry_out`."""

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from bus.shaping.profiles import profile_named
from bus.shaping.proxy import ShapingProxy
from schemas.emulation import LinkOrder
from schemas.errors import FAULTS, ShoalError

# An hour of outage or a minute of round trip is more than any experiment asks for; beyond them it is a wrong unit.
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Milliseconds = Annotated[float, Meta(gt=0, le=60_000)]


class BadOrder(ShoalError):
    """An order that can't be understood. Attribute: `why`."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f'{why}; orders look like {{"do": "profile", "name": "poor"}}, {{"do": "spike", "ms": 800, "seconds": 5}}, '
            '{"do": "disconnect", "seconds": 3} and {"do": "heal"}'
        )
        self.why = why


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """An order; the field `do` tells which."""


class Become(_Order, frozen=True, tag="profile"):
    """Be the link of this name from now on. Raises `UnknownProfile`."""

    name: str

    def __post_init__(self) -> None:
        profile_named(self.name)


class Spike(_Order, frozen=True, tag="spike"):
    """Add to the round trip for a while."""

    ms: Milliseconds
    seconds: Seconds


class Disconnect(_Order, frozen=True, tag="disconnect"):
    """Be down for a while."""

    seconds: Seconds


class Heal(_Order, frozen=True, tag="heal"):
    """End spike and outage."""


Order = Become | Spike | Disconnect | Heal


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an order that was carried out."""

    ok: bool = True
    profile: str
    spike_ms: float
    disconnected: bool
    connections: int


class Refusal(msgspec.Struct, frozen=True):
    """The answer to one that was not."""

    error: str
    ok: bool = False


def order_in(line: bytes) -> Order:
    """The order in a line of JSON. Raises `BadOrder`, `UnknownProfile`."""
    try:
        order: Order = _DECODE(line)
    except FAULTS as error:
        raise BadOrder(str(error)) from error
    return order


_DECODE = msgspec.json.Decoder(Order).decode


def order_of(message: LinkOrder) -> Order:
    """The order that a message asks for. Raises `BadOrder` for a time that makes no sense, `UnknownProfile`."""
    fields: dict[str, dict[str, str | float]] = {
        "profile": {"name": message.profile},
        "spike": {"ms": message.extra_ms, "seconds": message.seconds},
        "disconnect": {"seconds": message.seconds},
        "heal": {},
    }
    try:
        order: Order = msgspec.convert({"do": message.do, **fields[message.do]}, Order)
    except msgspec.ValidationError as error:
        raise BadOrder(str(error)) from error
    return order


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was carried out."""

    do: str
    profile: str
    """The profile in force after it."""
    reason: str
    cause: str
    """The id of the message that asked for it; empty where none did."""


class LinkControl:
    """Carries out orders on a proxy, and tells `announce` of each that was."""

    def __init__(self, proxy: ShapingProxy) -> None:
        self.announce: Callable[[Done], None] = lambda done: None
        self._proxy = proxy

    def carry_out(self, order: Order, *, reason: str = "", cause: str = "") -> LinkState:
        """Do it, and say how the link is now."""
        match order:
            case Become(name):
                self._proxy.set_profile(profile_named(name))
            case Spike(ms, seconds):
                self._proxy.spike(ms, seconds)
            case Disconnect(seconds):
                self._proxy.disconnect(seconds)
            case Heal():
                self._proxy.heal()
        self.announce(Done(do=_name_of(order), profile=self._proxy.profile.name, reason=reason, cause=cause))
        return LinkState(
            profile=self._proxy.profile.name,
            spike_ms=self._proxy.spike_ms,
            disconnected=self._proxy.disconnected,
            connections=self._proxy.counters().connections,
        )

    def answer(self, line: bytes) -> bytes:
        """Carry out the order in a line of JSON; the answer is one too, and never an exception."""
        try:
            answer: LinkState | Refusal = self.carry_out(order_in(line))
        except ShoalError as error:
            answer = Refusal(str(error))
        return msgspec.json.encode(answer)


def _name_of(order: Order) -> str:
    return str(order.__struct_config__.tag)

"""Changes of a link at set times: what an experiment does to it, written down before it starts."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from bus.shaping.control import LinkControl, Order
from schemas.errors import FAULTS, ShoalError


class BadSchedule(ShoalError):
    """A schedule that can't be read. Attribute: `why`."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"link schedule: {why}; write a list such as "
            '[{"after_seconds": 10, "order": {"do": "profile", "name": "poor"}}]'
        )
        self.why = why


class LinkChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change, some seconds after the schedule was started."""

    after_seconds: Annotated[float, Meta(ge=0, le=7 * 86400)]
    order: Order


def schedule_in(text: bytes) -> tuple[LinkChange, ...]:
    """The changes in a JSON list. Raises `BadSchedule`, `UnknownProfile`."""
    try:
        return msgspec.json.decode(text, type=tuple[LinkChange, ...])
    except FAULTS as error:
        raise BadSchedule(str(error)) from error


class Playback:
    """A schedule being played by timers of the running event loop."""

    def __init__(self, control: LinkControl, changes: Sequence[LinkChange]) -> None:
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later(change.after_seconds, self._make, control, change) for change in changes]

    @staticmethod
    def _make(control: LinkControl, change: LinkChange) -> None:
        control.carry_out(change.order, reason=f"scheduled {change.after_seconds:g} s after the start")

    def cancel(self) -> None:
        """Make no more of its changes."""
        for timer in self._timers:
            timer.cancel()

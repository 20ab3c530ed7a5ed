"""From bytes to messages: what doesn't decode, or contradicts its subject, is dropped, counted and reported."""

import logging
import time
from collections.abc import Callable

from bus.port import Handler
from schemas.bus import MessageRejected
from schemas.errors import FAULTS
from schemas.wire import Message, Wire, fault, registered, wire_for

log = logging.getLogger("shoal.bus")

_REPORT_INTERVAL = 1.0  # seconds between reports of a flood, besides the 1st, 2nd, 4th, 8th... of each subject
_SUBJECTS = 1024  # subjects whose rejections are counted apart: a flood on ever new ones mustn't fill the memory


class Intake:
    """What one participant makes of what it receives.

    Attributes:
        rejected: messages dropped so far.
    """

    def __init__(self, report: Callable[[MessageRejected], None]) -> None:
        self.rejected = 0
        self._report = report
        self._reported_at = -_REPORT_INTERVAL
        self._by_subject: dict[str, int] = {}

    def telemetry(self, wire: Wire, handler: Handler) -> Callable[[str, bytes], None]:
        """The listener of a core subscription to one type: no coroutine, no look-up by subject, as fast as it gets."""
        decode, subject_of, shared = wire.decode_bytes, wire.subject_of, overlapped(wire)

        def received(subject: str, data: bytes) -> None:
            if shared and wire_for(subject) is not wire:
                return
            try:
                message = decode(data)
            except FAULTS as error:
                self.reject(subject, data, *fault(error))
                return
            if subject_of(message) != subject:
                self.reject(subject, data, *contradiction(wire, message, subject))
                return
            try:
                handler(message, None)
            except Exception:
                log.exception("the handler of %s raised; it goes on with the next message", type(message).__name__)

        return received

    def decode(self, subject: str, data: bytes) -> Message | None:
        """The message in a stored message's bytes; None where it was rejected."""
        wire = wire_for(subject)
        if wire is None:
            self.reject(subject, data, "$", "no type of message has this subject")
            return None
        try:
            message: Message = wire.decode_bytes(data)
        except FAULTS as error:
            self.reject(subject, data, *fault(error))
            return None
        if wire.subject_of(message) != subject:
            self.reject(subject, data, *contradiction(wire, message, subject))
            return None
        return message

    def reject(self, subject: str, data: bytes, field: str, reason: str) -> None:
        """Count, and report unless in a flood."""
        self.rejected += 1
        now = time.monotonic()
        if subject not in self._by_subject and len(self._by_subject) >= _SUBJECTS:
            del self._by_subject[next(iter(self._by_subject))]
        here = self._by_subject[subject] = self._by_subject.get(subject, 0) + 1
        power_of_two = here & (here - 1) == 0
        if power_of_two or now - self._reported_at >= _REPORT_INTERVAL:
            self._reported_at = now
            self._report(MessageRejected(subject=subject, field=field, reason=reason, size=len(data), count=self.rejected))


def overlapped(wire: Wire) -> bool:
    """Whether another type's subjects match this type's pattern, so that the subject must be looked at."""
    for other in registered():
        if other is not wire and len(other.tokens) == len(wire.tokens):
            pairs = zip(other.pattern.split("."), wire.pattern.split("."), strict=True)
            if all("*" in pair or pair[0] == pair[1] for pair in pairs):
                return True
    return False


def contradiction(wire: Wire, message: Message, subject: str) -> tuple[str, str]:
    """(field, reason) for a body that says something else than the subject it came on."""
    for part, said in zip(wire.tokens, subject.split("."), strict=True):
        field = part[1:-1] if part.startswith("{") else ""
        if field and str(getattr(message, field)) != said:
            return f"$.{field}", f"{getattr(message, field)!r} in the body, {said!r} in the subject"
    return "$", f"it belongs on {wire.subject_of(message)}"

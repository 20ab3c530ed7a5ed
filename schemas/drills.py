"""Drills: faults that a person has injected on purpose (`shoal drill`), said so that nobody takes them for real ones."""

from schemas.ids import JobId
from schemas.wire import Delivery, Message, on_wire


@on_wire("shoal.drills.{drill}.mark", Delivery.RECORD)
class DrillMark(Message, frozen=True, kw_only=True):
    """A drill tells what it breaks or puts right; and, several times a second, stores one more without words.

    Each that the server has acknowledged must be there afterwards, once: so a drill knows that nothing accepted was lost.
    """

    drill: JobId
    """This run of `shoal drill`."""
    number: int
    """Counts up from 1 within it."""
    part: str = ""
    """What is broken: a process, a link, the server's store."""
    reason: str = ""
    """What is done to it, in words; empty where it is only counted."""

"""The chain of causes in the history: it knows the states that were superseded, which the streams no longer hold."""

from runners.causes import DECISIONS, LONGEST
from runners.history import EventRow, History


async def walk_causes(history: History, what: str, last: int = 5) -> list[list[EventRow]]:
    """The last decisions about something, newest first, each followed by what led to it, nearest cause first.

    Args:
        history: where to look.
        what: an event's id (its chain alone is given), a job's id or a node's name.
        last: the number of decisions at most.
    """
    event = await history.event(what)
    if event is not None:
        return [await _chain(history, event)]
    types = [kind.__name__ for kind in DECISIONS]
    about: dict[str, EventRow] = {}
    for rows in (
        await history.events(job=what, types=types, limit=last, newest_first=True),
        await history.events(node=what, types=types, limit=last, newest_first=True),
    ):
        about |= {row.id: row for row in rows}
    newest = sorted(about.values(), key=lambda row: -row.seq)[:last]
    return [await _chain(history, row) for row in newest]


async def _chain(history: History, event: EventRow) -> list[EventRow]:
    """An event and what led to it, as far back as it was recorded: telemetry is not."""
    chain, seen = [event], {event.id}
    while event.cause and event.cause not in seen and len(chain) < LONGEST:
        cause = await history.event(event.cause)
        if cause is None:
            break
        seen.add(cause.id)
        chain.append(cause)
        event = cause
    return chain

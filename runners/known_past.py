"""All that can be known of the past: what the streams hold, and on the recorder's machine its history."""

from pathlib import Path

from bus.port import Unreachable
from runners.address import NoServer
from runners.client import connect
from runners.history import opened
from schemas.wire import Message

HISTORY_FILE = "history.sqlite"
ROWS_READ = 20_000  # the newest of the history: some hours of a busy fleet, read within a second


async def known_past(server: str | None, store: Path) -> list[Message]:
    """Events in order of time. The history, if it is here, adds what the streams no longer hold: superseded decisions.

    Args:
        server: as for `connect`; with a server of somebody else's, the history here is not that fleet's.
        store: the directory of `shoal up`.

    Raises:
        NoServer, Unreachable: no server, and no history either.
        HistoryUnreadable: the history is damaged.
    """
    events = await _recorded(store / HISTORY_FILE) if server is None else {}
    try:
        async with await connect(server, store=store, name="cli") as client:
            events |= {event.id: event async for event in client.history()}
    except (NoServer, Unreachable):
        if not events:
            raise
    return sorted(events.values(), key=lambda event: event.at)


async def _recorded(path: Path) -> dict[str, Message]:
    if not path.exists():
        return {}
    async with opened(path, read_only=True) as history:
        rows = await history.events(limit=ROWS_READ, newest_first=True)
    return {row.id: event for row in rows if (event := row.message()) is not None}

"""What a host turns away when more comes than it can take: which, how many, and the telling of it.

Telemetry goes first, since the next one makes it good, and what processes print; stored messages wait in their streams,
which hold back by themselves; requests are refused with a time to come back.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from agents.inputs import Result, WorkLines
from schemas.decisions import MessagesDropped

# Telemetry is dropped while so many inputs wait: a core that can't keep up must not fill the memory.
INBOX = 50_000
# Lines that a job's process prints, by batches of up to 500, are dropped while so many inputs wait: they come from this
# very machine, where nothing else holds them back while the server is away.
LINES = 256
# Telemetry that waits for its connection; beyond it the oldest goes. A beat a second for half an hour.
UNSENT = 2000
# Requests that wait for their answers at once; further ones are refused. A desk answers some thousands a second.
ASKED = 512
# Seconds after which who was refused for the number of requests should ask again: the queue of them is gone by then.
SOON = 2.0
# Seconds after which to ask again where the server has no room: somebody has to make some.
LATER = 60.0


class Load:
    """The account of one host. `carrier`: what its bus has dropped so far; `full`: why nothing can be stored now."""

    def __init__(self, carrier: Callable[[], int], full: Callable[[], str]) -> None:
        self._carrier = carrier
        self._full = full
        self._counts: Counter[str] = Counter()
        self._told = 0

    @property
    def dropped(self) -> int:
        """Messages that were dropped so far."""
        return self._counts.total() + self._carrier()

    def takes_telemetry(self, waiting: int) -> bool:
        """Whether one more message of telemetry may come in while so many inputs wait."""
        if waiting < INBOX:
            return True
        self._counts["telemetry came faster than it was looked at"] += 1
        return False

    def takes(self, result: Result, waiting: int) -> bool:
        """Whether a result may come in."""
        if waiting < LINES or not isinstance(result, WorkLines):
            return True
        self._counts["a job printed faster than it could be passed on"] += 1
        return False

    def unsent(self) -> None:
        """Telemetry of its own had to go unsaid."""
        self._counts["the connection took less telemetry than there was"] += 1

    def refusal(self, waiting: int, *, stores: bool) -> tuple[str, float] | None:
        """Why a request can't be taken now, and after how many seconds it may be asked again; None where it can.

        `waiting`: requests that have no answer yet. `stores`: whether it leads to anything that must be stored.
        """
        if waiting >= ASKED:
            return f"{waiting} requests wait for an answer already", SOON
        if stores and self._full():
            return f"nothing can be stored: {self._full()}", LATER
        return None

    def news(self, agent: str) -> MessagesDropped | None:
        """What was dropped since the last of these, if anything was and telling it is of use."""
        dropped = self.dropped
        if dropped <= self._told or self._full():
            return None
        since, self._told = dropped - self._told, dropped
        reason = _reason({**self._counts, "the connection had no room or no server": self._carrier()})
        return MessagesDropped(agent=agent[:64], count=since, total=dropped, reason=reason)


def _reason(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count}: {why}" for why, count in sorted(counts.items(), key=lambda item: -item[1]) if count)

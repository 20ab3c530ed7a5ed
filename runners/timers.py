"""The timers of one core: what is due when, without polling."""

import heapq
from collections.abc import Iterator

from agents.effects import Timer

# A heap of deleted entries is rebuilt when it has this many times the live ones (amortised constant per change).
_SLACK = 4
_SMALL = 64


class Timers:
    """Timers by their key (an equal timer), with when they are due and the cause that they pass on."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._live: dict[Timer, tuple[float, int, str]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._live)

    def set(self, timer: Timer, at: float, cause: str) -> None:
        """Make `timer` due at `at`, moving an equal one. Timers due at one moment fire in the order of their setting."""
        self._order += 1
        self._live[timer] = (at, self._order, cause)
        heapq.heappush(self._heap, (at, self._order, timer))
        if len(self._heap) > _SMALL + _SLACK * len(self._live):
            self._heap = [(at, order, timer) for timer, (at, order, _) in self._live.items()]
            heapq.heapify(self._heap)

    def cancel(self, timer: Timer) -> str | None:
        """Forget a timer; gives its cause, None where there is none."""
        entry = self._live.pop(timer, None)
        return None if entry is None else entry[2]

    def next_due(self) -> float | None:
        """When the earliest is due; None where none is set."""
        heap = self._heap
        while heap:
            at, order, timer = heap[0]
            entry = self._live.get(timer)
            if entry is not None and entry[1] == order:
                return at
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> tuple[Timer, str] | None:
        """Take the earliest timer that is due at `now`, with its cause; None where there is none."""
        at = self.next_due()
        if at is None or at > now:
            return None
        timer = heapq.heappop(self._heap)[2]
        return timer, self._live.pop(timer)[2]

    def in_order(self) -> Iterator[tuple[Timer, float, str]]:
        """All timers with when they are due and their causes, earliest first."""
        for timer, (at, _, cause) in sorted(self._live.items(), key=lambda item: item[1][:2]):
            yield timer, at, cause

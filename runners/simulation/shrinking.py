"""Makes a failing simulation small: the shortest schedule of faults found that shows the same, then nodes, then hours.

Delta debugging after Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (IEEE TSE 28(2), 2002).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec

from runners.simulation.cases import Case, Finding
from runners.simulation.schedule import FaultEvent

T = TypeVar("T")
# Seconds for which a shorter schedule may show the failure later than the longer one did.
LATER = 60.0
# Seconds under which a stretch of bad weather isn't cut in two any more.
SHORT_WEATHER = 5.0
_HOUR = 3600.0


def ddmin(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """A part of `items` that still fails and none of whose items can be left out, if `fails` is steady and `items` fail.

    The order of the items is kept. `fails` is asked of no list twice in a row, but may be asked of one again later.
    """
    rest = list(items)
    if not rest or fails([]):
        return []
    parts = 2
    while len(rest) > 1:
        chunks = _chunks(rest, parts)
        smaller = next((chunk for chunk in chunks if fails(chunk)), None)
        if smaller is not None:
            rest, parts = smaller, 2
            continue
        others = [[item for other in chunks if other is not chunk for item in other] for chunk in chunks]
        without = next((other for other in others if fails(other)), None) if parts > 2 else None
        if without is not None:
            rest, parts = without, parts - 1
        elif parts < len(rest):
            parts = min(len(rest), 2 * parts)
        else:
            break
    return rest


def _chunks(items: list[T], parts: int) -> list[list[T]]:
    """`items` in so many stretches of like length."""
    bounds = [round(place * len(items) / parts) for place in range(parts + 1)]
    return [items[low:high] for low, high in pairwise(bounds) if high > low]


class Shrinking:
    """The way from a failing case to a small one.

    Args:
        case: it fails.
        finding: how.
        examine: runs a case, and gives what it finds.
        most: runs, at most.
        told: gets a line as it gets smaller.

    Attributes:
        case: the smallest that shows the same so far.
        finding: what it shows.
        runs: how many it took.
    """

    def __init__(
        self,
        case: Case,
        finding: Finding,
        examine: Callable[[Case], Finding | None],
        most: int = 300,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.case = case
        self.finding = finding
        self.runs = 0
        self._examine = examine
        self._most = most
        self._told = told
        self._known: set[bytes] = set()

    def shrink(self) -> Case:
        """Make it as small as it gets; gives the smallest case found, which was seen to fail."""
        self._end_with_the_failure()
        before = None
        while before != self._size() and self.runs < self._most:
            before = self._size()
            self._faults()
            self._nodes()
            self._end_with_the_failure()
            self._cut_weather()
        return self.case

    def _size(self) -> tuple[int, float]:
        schedule = self.case.schedule
        storms = sum(event.seconds for event in schedule if event.kind == "weather")
        return len(schedule) + len(self.case.nodes), storms

    def _fails(self, **changes: object) -> bool:
        """Whether the case with some changes shows the same; if it does, it is the case from now on."""
        changed = msgspec.structs.replace(self.case, **changes)
        key = msgspec.msgpack.encode(changed)
        if key in self._known or self.runs >= self._most:
            return False
        self._known.add(key)
        self.runs += 1
        finding = self._examine(changed)
        if finding is None or finding.signature != self.finding.signature:
            return False
        self.case, self.finding = changed, finding
        nodes, faults = len(changed.nodes), len(changed.schedule)
        self._told(f"run {self.runs}: {nodes} nodes, {faults} faults, {finding.at:.0f} s show it")
        return True

    def _faults(self) -> None:
        ddmin(self.case.schedule, lambda events: self._fails(schedule=tuple(events)))

    def _nodes(self) -> None:
        def fewer(nodes: list[str]) -> bool:
            agents = {event.who for event in self.case.schedule} - set(self.case.nodes)
            left = {*nodes, *agents}
            return bool(nodes) and self._fails(
                nodes=tuple(nodes), schedule=tuple([event for event in self.case.schedule if event.who in left])
            )

        ddmin(self.case.nodes, fewer)

    def _end_with_the_failure(self) -> None:
        """Nothing after a failure can have led to it; a failure in the calm time may need less of the time before it."""
        case, at = self.case, self.finding.at
        if at <= case.hours * _HOUR:
            before = tuple([event for event in case.schedule if event.at <= at])
            self._fails(schedule=before, hours=(at + LATER) / _HOUR, calm=False)
            return
        last = max((event.at for event in case.schedule), default=0.0)
        for hours in ((last + 1.0) / _HOUR, (last + LATER) / _HOUR, (last / _HOUR + case.hours) / 2):
            if hours < 0.95 * case.hours and self._fails(hours=hours):
                return

    def _cut_weather(self) -> None:
        """Bad weather in stretches half as long, of which fewer may do."""
        cut = [half for event in self.case.schedule for half in _halves(event)]
        if len(cut) > len(self.case.schedule):
            ddmin(cut, lambda events: self._fails(schedule=tuple(events)))


def _halves(event: FaultEvent) -> list[FaultEvent]:
    if event.kind != "weather" or event.seconds < 2 * SHORT_WEATHER:
        return [event]
    half = event.seconds / 2
    return [
        msgspec.structs.replace(event, seconds=half),
        msgspec.structs.replace(event, at=event.at + half, seconds=half),
    ]

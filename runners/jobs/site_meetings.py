"""When, in the midst of one round's steps, a node averages with the others of its site."""

import statistics
from typing import Protocol

from agents.trainer.works import Meetings, Met


class Meets(Protocol):
    """Whoever averages the model as it is; see `runners.jobs.site_works.SiteWorks.meet`."""

    async def meet(self, meetings: Meetings, round_: int, number: int, samples: int) -> tuple[float, float] | None:
        """Seconds it took and seconds waited for others; None: it came to nothing."""


class SiteMeetings:
    """A round's averages. Each node does its own number of steps between two, in proportion to its round's."""

    def __init__(self, sites: Meets, meetings: Meetings | None, round_: int) -> None:
        self._sites, self._meetings, self._round = sites, meetings, round_
        self._left = meetings.parts - 1 if meetings is not None else 0
        self._seconds: list[float] = []
        self._waits: list[float] = []

    async def after(self, step: int, steps: int, samples: int) -> None:
        """Average as often as is due after a step of so many, in which a node has done with so many samples."""
        while self._meetings is not None and self._left:
            number = self._meetings.parts - self._left
            if step * self._meetings.parts < steps * number:
                return
            went = await self._sites.meet(self._meetings, self._round, number, samples)
            if went is None:
                self._left = 0
                return
            self._left -= 1
            self._seconds.append(went[0])
            self._waits.append(went[1])

    @property
    def met(self) -> Met:
        """How they went."""
        if not self._seconds:
            return Met()
        return Met(count=len(self._seconds), seconds=statistics.median(self._seconds), waited=max(self._waits))

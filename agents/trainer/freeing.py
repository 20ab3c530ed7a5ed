"""A process gives back the memory that it doesn't need, when the healer says so."""

from agents.base import Effects, StartWork, on
from agents.trainer import works
from agents.trainer.siting import Siting
from schemas.healing import HealingOrdered


class Freeing(Siting):
    """The part of the trainer that carries out the remedy `free`."""

    @on(HealingOrdered)
    def free(self, event: HealingOrdered, now: float) -> Effects:
        """Between two steps; nothing is lost by it but what caches saved."""
        mine = event.node == self.state.node and event.job in (None, self.state.job)
        if event.remedy == "free" and mine:
            yield StartWork(key="free", work=works.FreeMemory(), reason=event.reason, cause=self._cause)

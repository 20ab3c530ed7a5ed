"""With `sync = "overlap"`: steps of the next round while the difference of the last one travels.

A node is one round ahead of the anchor at most. Steps for round r + 1 begin as soon as round r's difference is made; theirs
is made once round r is applied, when what the node added in r has been replaced by everybody's average. So every difference
is one to an anchor that exists, whatever arrives in which order, and the reducer's rounds need to know nothing of it.
"""

from collections.abc import Iterator

from agents.base import Effect
from agents.trainer import works
from agents.trainer.offering import Offering


class Overlapping(Offering):
    """The part of a trainer that is ahead of the anchor."""

    def _take_difference(self) -> Iterator[Effect]:
        """Make the difference of steps that were taken, once the anchor of the round before it is here."""
        s = self.state
        if s.ready is None or s.taking or s.version < s.ready.round - 1:
            return
        s.taking = True
        yield self._work("steps", works.TakeDifference(done=s.ready), f"round {s.ready.round}: its steps are taken")

    def _begin_again(self, round_: int, reason: str) -> Iterator[Effect]:
        """A difference that can't be counted is no good to build on: whoever is ahead of it begins at the anchor again."""
        s = self.state
        if not s.overlaps or s.made < round_ or round_ <= s.version:
            return
        s.made = round_ - 1
        if s.at_work:
            yield from self._give_up_steps(f"they began from what was refused: {reason}")

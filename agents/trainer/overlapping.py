"""With `sync = "overlap"`: steps of the next round while the difference of the last one travels.

A node is one round ahead of the anchor at most. Steps for round r + 1 begin as soon as round r's difference is made; theirs
is made once round r is applied, when what the node added in r has been replaced by everybody's average. So every difference
is one to an anchor that exists, whatever arrives in which order, and the reducer's rounds need to know nothing of it.

With `sync = "async"` the same, but a node doesn't stand still: while a difference can't be made yet (the version that the
last one was made for isn't here, or as many wait to be counted as may), it takes further steps, which go with it. A
difference is made for the version that is next when it is made, not when its steps began: the working parameters have moved
along since.
"""

from collections.abc import Iterator

import msgspec

from agents.base import Effect
from agents.trainer import works
from agents.trainer.offering import Offering

FURTHER = 4
"""Parts that a share's steps are divided into while a difference waits: it can be made after any of them."""

MOST = 8
"""Shares whose steps may be in one difference: that bridges the time until another reducer takes over, where intervals are
a second or more, and nobody wanders off for good."""


class Overlapping(Offering):
    """The part of a trainer that is ahead of the anchor."""

    def _take_difference(self) -> Iterator[Effect]:
        """Make the difference of steps that were taken, once the anchor of the round before it is here."""
        s = self.state
        if s.ready is None or s.taking or s.version < s.ready.round - 1:
            return
        if s.asynchronous:
            if s.computing or s.busy == "catch_up" or len(s.offers) >= self._most_pending:
                return
            s.ready = msgspec.structs.replace(s.ready, round=s.version + 1)
        s.taking = True
        yield self._work(
            "steps", works.TakeDifference(done=s.ready, ahead=self._ahead()), f"round {s.ready.round}: its steps are taken"
        )

    def _further_steps(self) -> int:
        """Steps to take while a difference waits; 0 where there are enough of them, or `sync` is another."""
        s = self.state
        if not s.asynchronous or s.ready is None or s.taking or s.share is None:
            return 0
        steps = s.share.local_steps
        return max(1, steps // FURTHER) if s.ready.steps < MOST * steps else 0

    def _begin_again(self, round_: int, reason: str) -> Iterator[Effect]:
        """A difference that can't be counted is no good to build on: whoever is ahead of it begins at the anchor again."""
        s = self.state
        if not s.overlaps or s.made < round_ or round_ <= s.version:
            return
        s.made = round_ - 1
        if s.at_work:
            yield from self._give_up_steps(f"they began from what was refused: {reason}")


def together(before: works.StepsDone | None, now: works.StepsDone) -> works.StepsDone:
    """Steps that go into one difference."""
    if before is None:
        return now
    samples = before.samples + now.samples
    return msgspec.structs.replace(
        now,
        samples=samples,
        steps=before.steps + now.steps,
        seconds=before.seconds + now.seconds,
        loss=(before.loss * before.samples + now.loss * now.samples) / max(1, samples),
    )

"""When a held-out loss is worth its time: it takes that of the node that reduces, for which all others wait.

Rounds are as short as links allow, validations as long as the user's held-out data: nobody but the clock can say how many
go together. So the pause between two is as long as makes validations `share` of the time. Where the loss is about to reach
the target that ends the job, every round that goes unnoticed is lost: by the slope of the last losses, the next validation
is at half of the time that is left until then (which halves what is left each time), for `NEAR` of the time at most.
"""

from statistics import median_low

import msgspec

NEAR = 0.2
"""Part of the time that validations may take once the target is near: they are few by then, and each may be the last."""

REMEMBERED = 4
"""Validations that the time of one, and the loss's slope, are taken from: one alone may have had a cold cache or a lucky
draw, and early ones say little of a slope that flattens."""


class Seen(msgspec.Struct, frozen=True):
    """A validation."""

    at: float
    """When it was heard of, here."""
    loss: float
    seconds: float
    """It took."""


class Validations(msgspec.Struct, kw_only=True):
    """The last validations of a job, whoever made them: a node that comes to reduce goes on where the other left off."""

    seen: list[Seen] = []
    under_way: bool = False
    """This node makes one."""
    since: float = 0.0
    """When it began."""
    newest: int = 0
    """The newest round that was validated, or is being validated here."""

    def begin(self, round_: int, now: float) -> None:
        """This node makes one."""
        self.under_way, self.since, self.newest = True, now, max(self.newest, round_)

    def left(self, now: float) -> float:
        """Seconds until the one that this node makes should be done; 0 where it makes none, or none was made before."""
        if not (self.under_way and self.seen):
            return 0.0
        return max(0.0, self.since + self._cost - now)

    @property
    def _cost(self) -> float:
        return median_low([seen.seconds for seen in self.seen])

    def note(self, round_: int, seen: Seen) -> None:
        """One more."""
        self.newest = max(self.newest, round_)
        self.seen = [*self.seen, seen][-REMEMBERED:]

    def due(self, now: float, share: float, target: float | None) -> bool:
        """Whether enough time has passed since the last, if they are to take `share` of it."""
        if self.under_way:
            return False
        return not self.seen or now >= self.seen[-1].at + self.pause(share, target)

    def pause(self, share: float, target: float | None) -> float:
        """Seconds between the last validation, of which there must be one, and the next."""
        cost = self._cost
        pause = cost * (1.0 / share - 1.0)
        if target is not None and share < NEAR:
            pause = min(pause, max(self._left(target) / 2, cost * (1.0 / NEAR - 1.0)))
        return pause

    def _left(self, target: float) -> float:
        """Seconds from the last validation until the loss is at the target, if it goes on as it did; infinite if it doesn't
        fall."""
        first, last = self.seen[0], self.seen[-1]
        fallen, took = first.loss - last.loss, last.at - first.at
        if not (fallen > 0 and took > 0):
            return float("inf")
        return max(0.0, last.loss - target) * took / fallen

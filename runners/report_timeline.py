"""A job's messages in the order of their times, and which round was open when."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeVar

from schemas.jobs import JobState
from schemas.training import RoundClosed, RoundOpened
from schemas.wire import Message

M = TypeVar("M", bound=Message)


class Timeline:
    """What was said while a job ran. Times are those of the speakers' clocks: between machines they may be off a little."""

    def __init__(self, job: str, messages: Iterable[Message]) -> None:
        """`messages`: of the job, its nodes, links and agents, in any order; what comes twice counts once."""
        by_id = {message.id or f"{index}": message for index, message in enumerate(messages)}
        self.job = job
        self.messages = sorted(by_id.values(), key=lambda message: message.at)
        self.by_id = by_id
        states = [state for state in self.of(JobState) if state.job == job]
        self.last_state: JobState | None = max(states, key=lambda state: state.version, default=None)
        own = [message.at for message in self.messages if getattr(message, "job", None) == job]
        self.begin = self.last_state.submitted_at if self.last_state else min(own, default=0.0)
        self.closed = self._first_per_round(RoundClosed)
        self._openings = sorted((opened.at, opened.round) for opened in self.of(RoundOpened) if opened.job == job)
        self._closings = sorted((closed.at, closed.round) for closed in self.closed)

    def of(self, kind: type[M]) -> list[M]:
        """The messages of a type, in order."""
        return [message for message in self.messages if isinstance(message, kind)]

    def since(self, at: float) -> float:
        """Seconds since the submission, to the millisecond."""
        return round(at - self.begin, 3)

    def round_at(self, at: float) -> int:
        """The round that was open: the highest that a reducer had opened; 0 before the first."""
        before = self._openings[: bisect_right(self._openings, at, key=lambda opening: opening[0])]
        return max((number for _, number in before), default=0)

    def round_hit(self, at: float) -> int:
        """The round that something at that time befalls: the open one; between two, the one that is about to open."""
        open_or_last = self.round_at(at)
        over = any(number == open_or_last and closed_at < at for closed_at, number in self._closings)
        return open_or_last + over

    def next_close(self, at: float) -> float | None:
        """When the next round closed after `at`."""
        index = bisect_right(self._closings, at, key=lambda closing: closing[0])
        return self._closings[index][0] if index < len(self._closings) else None

    def next_contribution(self, node: str, at: float) -> float | None:
        """When a round next closed after `at` with a contribution of `node` in it."""
        times = (
            closed.at for closed in self.closed if closed.at > at and any(p.node == node for p in closed.contributions)
        )
        return min(times, default=None)

    def cause_in_words(self, message: Message) -> str:
        """The event that led to a message: its type, whom it is about, and its reason."""
        cause = self.by_id.get(message.cause) if message.cause else None
        if cause is None:
            return ""
        about = getattr(cause, "node", "")
        reason = getattr(cause, "reason", "")
        return f"{type(cause).__name__}{f' of {about}' if about else ''}{f': {reason}' if reason else ''}"

    def _first_per_round(self, kind: type[RoundClosed]) -> list[RoundClosed]:
        rounds: dict[int, RoundClosed] = {}
        for closed in self.of(kind):
            if closed.job == self.job:
                rounds.setdefault(closed.round, closed)
        return [rounds[number] for number in sorted(rounds)]

    def own(self, kind: type[M]) -> Iterator[M]:
        """The messages of a type that are of this job."""
        return (message for message in self.of(kind) if getattr(message, "job", None) == self.job)

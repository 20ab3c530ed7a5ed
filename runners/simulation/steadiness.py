"""How often a job's documents change although nothing new is learnt: the mark of agents that react to each other."""

from bus.simulated_streams import Stored
from schemas.training import Assignment, Roster, RoundClosed, Share

# Rounds in which a node of a job is measured for the first time, and its share is fitted to what turns out.
LEARNT = 5


class Steadiness:
    """Counts versions of rosters and assignments by job, once a job's nodes are measured.

    A roster counts from round `LEARNT` of the job. An assignment counts unless all that changed in it are the shares of
    nodes that came within the last `LEARNT` rounds, or that came or went: the roster counts for those.
    """

    def __init__(self) -> None:
        self._closed: dict[str, int] = {}
        self._since: dict[str, dict[str, int]] = {}
        self._shares: dict[str, dict[str, Share]] = {}
        self._changes: dict[tuple[type, str], int] = {}

    def stored(self, stored: Stored) -> None:
        """A message has come into its stream."""
        if stored.wire.type in (Roster, Assignment, RoundClosed):
            self.see(stored.wire.decode_bytes(stored.data))

    def see(self, message: object) -> None:
        """Take a document, or a closed round, into account."""
        match message:
            case RoundClosed():
                self._closed[message.job] = message.round
            case Roster():
                closed, before = self._closed.get(message.job, 0), self._since.get(message.job, {})
                self._since[message.job] = {node: before.get(node, closed) for node in message.nodes}
                self._count(Roster, message.job, closed >= LEARNT)
            case Assignment():
                self._count(Assignment, message.job, self._is_news_of_the_measured(message))
                self._shares[message.job] = message.shares

    def changes(self, kind: type, job: str) -> int:
        """Versions of a job's `Roster` or `Assignment` that counted."""
        return self._changes.get((kind, job), 0)

    def _is_news_of_the_measured(self, assignment: Assignment) -> bool:
        job = assignment.job
        closed, since, before = self._closed.get(job, 0), self._since.get(job, {}), self._shares.get(job, {})
        moved = [node for node in {**before, **assignment.shares} if before.get(node) != assignment.shares.get(node)]
        if closed < LEARNT:
            return False
        stayed = [node for node in moved if node in before and node in assignment.shares]
        return not moved or any(closed - since.get(node, closed) >= LEARNT for node in stayed)

    def _count(self, kind: type, job: str, counts: bool) -> None:
        if counts:
            self._changes[kind, job] = self._changes.get((kind, job), 0) + 1

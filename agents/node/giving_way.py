"""A node gives way: what it says and does when its owner needs the machine, and no longer."""

from abc import abstractmethod
from collections.abc import Iterator

from agents.base import Effect, Effects, StartWork, on
from agents.node import owner
from agents.node.reaching import Reaching
from agents.node.state import JobHere
from agents.node.works import MachineSampled, PaceJobs
from schemas.ids import JobId
from schemas.nodes import NodeYielding, PauseNode


class GivingWay(Reaching):
    """The part of a node's agent that pauses or slows jobs for the machine's owner."""

    @abstractmethod
    def _settle(self, job: JobId, here: JobHere, now: float, reason: str) -> Iterator[Effect]:
        """Bring what runs of a job into line with what should."""

    @on(MachineSampled)
    def remember(self, event: MachineSampled, now: float) -> Effects:
        """For the next heartbeat; and the owner may need the machine now, or no longer."""
        self.state.sample = event
        owner.weigh(self.state.need, event, self.settings, now)
        yield from self._give_way(now)

    @on(PauseNode)
    def obey(self, event: PauseNode, now: float) -> Effects:
        """A person's word counts until the next."""
        self.state.need.by_hand = (event.reason or "no reason given") if event.pause else ""
        yield from self._give_way(now)

    def _give_way(self, now: float) -> Iterator[Effect]:
        """Say that the node yields, or goes on, if that is news, and act upon it at once, whatever rosters say.

        Job processes are slowed where the node leaves them a share of its speed. Else they end, but for one that no other
        node could go on for: it stops computing as its roster empties, and keeps the anchor.
        """
        need = self.state.need
        share = owner.share(need, self.settings, now)
        if (need.causes, share) == (need.told, need.share):
            return
        paused, was_paused = share == 0.0, need.share == 0.0
        reason = f"yields: {owner.words(need, share)}" if need.causes else "goes on: its owner no longer needs it"
        need.told, need.share, need.version = need.causes, share, need.version + 1
        need.reason = reason if need.causes else need.reason
        yield self.publish(
            NodeYielding(
                node=self.settings.node, version=need.version, yielding=bool(need.causes), share=share, reason=reason
            )
        )
        if not paused and share != need.pace:
            need.pace = share
            yield StartWork(key="pace", work=PaceJobs(share=share), reason=reason, cause=self._cause)
        if paused != was_paused:
            for job, here in list(self.state.jobs.items()):
                yield from self._settle(job, here, now, f"the node {reason}")

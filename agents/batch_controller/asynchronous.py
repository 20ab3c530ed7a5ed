"""Shares with `sync = "async"`: everybody contributes at like intervals, with as many steps as fit into its own.

Steps in proportion to speed are what "Asynchronous Local-SGD Training for Language Modeling" (Liu et al., arXiv 2401.09135)
calls dynamic local updates: a slow node's differences are then no staler than a fast one's. Nobody waits, so there is no
deadline to learn and no round to fill; what bounds the interval from below are transfers, which go on beside the steps.
"""

import math
from collections.abc import Mapping

import msgspec

from agents.batch_controller import rounds
from agents.batch_controller.planner import Plan, Planner
from agents.batch_controller.rounds import Pace
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import Job, Node
from schemas.ids import NodeId
from schemas.jobs import AverageEncoding, JobRequest
from schemas.training import Share

VERSIONS = 2
"""Averages that come down in the time of one contribution: a version has those of half of the nodes
(`agents.reducer.asynchronous.buffer`)."""

STAYS = 1.25
"""Factor by which transfers may be over the time that a node has for them before it gets more: rates vary."""

LEAST_PATIENCE = 2.0
"""Seconds that a version stays open at least for half of the nodes to come: each closing costs some messages and a download
for everybody, however short the steps are."""


class AsynchronousPlanner(Planner):
    """A planner for which a round is the time from one contribution of a node to its next."""

    def __init__(
        self, job: Job, request: JobRequest, nodes: Mapping[NodeId, Node], settings: BatchControllerSettings
    ) -> None:
        super().__init__(job, request, nodes, settings)
        self.beside = True

    def _round_time(self, drafts: Mapping[NodeId, Share], paces: Mapping[NodeId, Pace]) -> float:
        """Seconds between contributions: the fastest node's for its steps, or what transfers and closings take of it."""
        loaded = {name: _with_all_averages(pace) for name, pace in paces.items()}
        return max(super()._round_time(drafts, loaded), VERSIONS * (self.job.closing + self.job.pause))

    def _steps(self, name: NodeId, share: Share, pace: Pace, seconds: float) -> Share:
        """As many steps as fit into the interval, or into so many that the node's link carries what comes up and down."""
        present = self.present.get(name)
        if present is not None and not (self.free.adapt and self.measured):
            return share
        asked = self._asked(share.microbatch)
        every = intervals(pace, seconds, present.every if present is not None else 1, self.settings.every_max)
        steps = rounds.steps_for(
            every * seconds / pace.step,
            asked * every,
            present.local_steps if present is not None else None,
            self.free.factor,
            self.settings,
        )
        return msgspec.structs.replace(share, local_steps=steps, every=every)

    def _enough_regular(self, shares: dict[NodeId, Share], paces: Mapping[NodeId, Pace]) -> dict[NodeId, Share]:
        """No version needs a quorum; one node sets the interval."""
        if any(share.every == 1 for share in shares.values()):
            return shares
        first = min(shares, key=lambda name: (paces[name].time(1), name))
        return {**shares, first: self._regular(first, shares[first])}

    def _timed(self, shares: dict[NodeId, Share], paces: dict[NodeId, Pace], average: AverageEncoding) -> Plan:
        """The deadline is only how long a version may wait for company: nobody misses it."""
        plan = super()._timed(shares, paces, average)
        if self.request.deadline_seconds is not None or not self.measured:
            return plan
        return msgspec.structs.replace(plan, deadline_seconds=max(LEAST_PATIENCE, plan.round_seconds))


def _with_all_averages(pace: Pace) -> Pace:
    """A pace with the downloads of an interval."""
    return msgspec.structs.replace(pace, down=VERSIONS * pace.down)


def intervals(pace: Pace, seconds: float, present: int, most: int) -> int:
    """Intervals from one contribution of a node to its next: as many as its upload takes beside the averages.

    The averages take the same part of any time, so that the upload has the rest of the link; a link that is full of them
    alone has no more for uploads than for averages. `present` stays while it is nearly right.
    """
    left = max(0.5, 1.0 - VERSIONS * pace.down / seconds)
    needed = pace.up / (left * seconds)
    if present / STAYS <= max(1.0, needed) <= present * STAYS:
        return min(most, present)
    return max(1, min(most, math.ceil(needed / STAYS)))

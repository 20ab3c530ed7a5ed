"""The planner of jobs with `sync = "step"`: a gradient a round from each node, whatever the strategy (`gradients`)."""

from collections.abc import Iterable, Mapping

import msgspec

from agents.batch_controller import gradients, words
from agents.batch_controller.planner import Plan, Planner
from agents.batch_controller.rounds import Pace
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import Job, Node
from schemas.ids import NodeId
from schemas.jobs import Encoding, JobRequest


class GradientPlanner(Planner):
    """A planner for which a round is one step, and work is the microbatch."""

    def __init__(
        self, job: Job, request: JobRequest, nodes: Mapping[NodeId, Node], settings: BatchControllerSettings
    ) -> None:
        super().__init__(job, request, nodes, settings)
        self.steps_asked = 1

    def plan(self) -> Plan:
        """One gradient a round from each, of a microbatch in proportion to its speed."""
        if self.request.batch == "fixed":
            return self._fixed()
        average = self._average_encoding()
        drafts = {name: self._travel(name) for name in self.roster}

        def paces(size: int) -> dict[NodeId, Pace]:
            sized = {name: msgspec.structs.replace(share, microbatch=size) for name, share in drafts.items()}
            return {name: self._pace(name, share, average) for name, share in sized.items()}

        asked = paces(self.start)
        seconds = gradients.round_time(asked, paces(self.low), self.job.quorum)
        alone = min(pace.step for pace in asked.values())
        shares = {}
        for name, share in drafts.items():
            within = gradients.room(asked[name], seconds, alone)
            shares[name] = msgspec.structs.replace(share, microbatch=self._samples(name, share.microbatch, within))
        return self.timed(shares, average)

    def _samples(self, name: NodeId, size: int, within: float) -> int:
        """Samples of a node's gradient; a change takes leave to adapt, measurements, and some rounds since the last."""
        known, factor = self.known[name], self.free.factor
        rungs = [1 << n for n in range(self.high.bit_length()) if self.low <= 1 << n <= (known.ceiling or self.high)]
        if name not in self.present:
            return gradients.microbatch(None, lambda rung: self._step(name, rung), within, rungs, factor)
        early = self.job.round - known.changed < self.free.cooldown << known.turns
        if early or not (self.free.adapt and self.measured):
            return min(size, rungs[-1])
        moved = gradients.microbatch(size, lambda rung: self._step(name, rung), within, rungs, factor)
        if moved != size:
            self._because(name, words.gradient(size, self._step(name, size), within))
        return moved

    def _prompt(self, times: Mapping[NodeId, float]) -> Iterable[NodeId]:
        return gradients.prompt(times, self.job.quorum)

    def _asked_encoding(self) -> Encoding | None:
        """Exact, unless something else is asked for."""
        return super()._asked_encoding() or "float32"

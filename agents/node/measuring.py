"""A node measures itself for whoever asks, unless it has something better to do: a job's work comes first."""

import random

import msgspec

from agents.base import Agent, Effects, StartWork, on
from agents.node.settings import NodeAgentSettings
from agents.node.state import NodeState
from agents.node.works import Measured, MeasuringWork
from schemas.measuring import MeasureNode, NodeMeasured


class Measuring(Agent[NodeState]):
    """The part of a node's agent that answers `MeasureNode`."""

    name = "node"

    def __init__(self, settings: NodeAgentSettings, rng: random.Random, state: NodeState | None = None) -> None:
        super().__init__(state or NodeState(), rng)
        self.settings = settings

    @on(MeasureNode)
    def measure(self, event: MeasureNode, now: float) -> Effects:
        """Begin, or say why not."""
        problem = self._occupied()
        if problem:
            yield self.publish(NodeMeasured(node=self.settings.node, ticket=event.ticket, problem=problem))
            return
        self.state.measuring = event.ticket
        work = MeasuringWork(ticket=event.ticket, request=event.request, streams=event.streams, seconds=event.seconds)
        yield StartWork(key=f"measure/{event.ticket}", work=work, reason="a client wants to know", cause=self._cause)

    @on(Measured)
    def tell_measured(self, event: Measured, now: float) -> Effects:
        """What was measured; not what a job or the owner has disturbed meanwhile."""
        self.state.measuring = ""
        found, disturbed = event.found, self._occupied()
        if disturbed and not found.problem:
            found = NodeMeasured(
                node=found.node, ticket=found.ticket, problem=f"disturbed while it was measured: {disturbed}"
            )
        yield self.publish(msgspec.structs.replace(found, node=self.settings.node))

    def _occupied(self) -> str:
        """What keeps the node from being measured, in words; empty if nothing does."""
        if self.state.need.causes:
            return f"not measured: it yields ({self.state.need.words})"
        jobs = [job for job, here in sorted(self.state.jobs.items()) if here.at_work]
        if jobs:
            return f"busy with {', '.join(jobs)}: not measured, so as not to disturb it"
        return "it is being measured for somebody else: ask again" if self.state.measuring else ""

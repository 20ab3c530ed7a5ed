"""Figures of nodes that are not what they use to be, or are on their way elsewhere: said once, with what is usual."""

from collections.abc import Iterator

from agents.base import Effect, Effects, on
from agents.failure_detector import policy, series, words
from agents.failure_detector.progress import Progress
from agents.failure_detector.state import Watched
from schemas import figures
from schemas.figures import Figures
from schemas.health import FigureChanged
from schemas.ids import NodeId
from schemas.network import LinkProbed
from schemas.training import StepTimed, TransferTimed

MOST = 20
"""Figures of a node that are followed: four of the machine, five of each of two GPUs, six of links and steps."""


class Anomalies(Progress):
    """The part of the failure detector that follows every figure that the recorder records."""

    @on(LinkProbed)
    def see_probe(self, event: LinkProbed, now: float) -> Effects:
        """Round trips, by which it is known how long a node takes to be connected again."""
        node = self.state.nodes.get(event.node)
        if node is not None and event.rtt_ms is not None:
            policy.learn_round_trip(node, max(0.0, event.rtt_ms) / 1000)
        yield from self._follow(figures.of_probe(event))

    @on(StepTimed)
    def see_steps(self, event: StepTimed, now: float) -> Effects:
        """Speed of training."""
        yield from self._follow(figures.of_steps(event))

    @on(TransferTimed)
    def see_transfer(self, event: TransferTimed, now: float) -> Effects:
        """Speed of the link."""
        yield from self._follow(figures.of_transfer(event))

    def _follow(self, found: Figures) -> Iterator[Effect]:
        node = self.state.nodes.get(found.node)
        if node is None or found.node in self.state.gone:
            return
        for name, value in found.values.items():
            known = node.figures.get(name)
            if known is None:
                if len(node.figures) < MOST:
                    node.figures[name] = series.begin(value)
                continue
            kind = series.take(known, value, self.settings)
            if kind is not None:
                yield self._tell(found.node, node, name, value, kind)

    def _tell(self, name: NodeId, node: Watched, figure: str, value: float, kind: series.Kind) -> Effect:
        known = node.figures[figure]
        first = known.blocks[0] if known.blocks else known.median
        reason = words.figure(figure, kind, value, known.median, first, known.blocks[-1] if known.blocks else value)
        return self.publish(
            FigureChanged(
                node=name,
                figure=figure,
                kind=kind,
                value=value,
                usual=known.median,
                deviation=series.deviation(known),
                reason=reason,
            )
        )

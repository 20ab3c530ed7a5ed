"""A node says that it is there when it is asked, and tries to reach others for the failure detector."""

from agents.base import Asked, Effects, Reach, Reply, on, on_request
from agents.inputs import Reached
from agents.node.measuring import Measuring
from schemas.health import Here, ReachAsked, ReachNode, ReachTold


class Reaching(Measuring):
    """The part of a node's agent that bears witness: to its own life, and to that of others."""

    @on_request(ReachNode)
    def be_here(self, asked: Asked, now: float) -> Effects:
        """Whoever asks learns that this process runs, takes inputs in, and can be heard."""
        yield Reply(to=asked.reply_to, answer=Here(node=self.settings.node, beats=self.state.sequence))

    @on(ReachAsked)
    def try_to_reach(self, event: ReachAsked, now: float) -> Effects:
        """A node is suspected: does it answer on this one's connection?"""
        yield Reach(node=event.suspect, ticket=event.ticket, timeout=event.seconds)

    @on(Reached)
    def tell_reached(self, event: Reached, now: float) -> Effects:
        """What came of it."""
        rtt_ms = None if event.rtt is None else event.rtt * 1000
        yield self.publish(
            ReachTold(
                node=self.settings.node, suspect=event.node, ticket=event.ticket, outcome=event.outcome, rtt_ms=rtt_ms
            )
        )

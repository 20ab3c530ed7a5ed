"""A node bears witness: to its own life when asked, and to another's on the failure detector's behalf."""

import random

from agents.base import Asked, Publish, Reach, Reply
from agents.inputs import Reached
from agents.node import NodeAgent, NodeAgentSettings
from schemas.health import Here, ReachAsked, ReachNode, ReachTold


def test_it_answers_whoever_asks() -> None:
    node = NodeAgent(NodeAgentSettings(node="a"), random.Random(1))
    node.state.sequence = 7
    effects = node.handle(Asked(reply_to="x", request=ReachNode(node="a"), at=1.0), 1.0)
    assert effects == [Reply(to="x", answer=Here(node="a", beats=7))]


def test_it_tries_to_reach_another_and_tells_what_came_of_it() -> None:
    node = NodeAgent(NodeAgentSettings(node="a"), random.Random(1))
    asked = ReachAsked(node="a", suspect="b", ticket=3, seconds=2.0)
    assert node.handle(asked, 1.0) == [Reach(node="b", ticket=3, timeout=2.0)]
    for outcome, rtt, rtt_ms in (("answered", 0.25, 250.0), ("absent", None, None)):
        (told,) = node.handle(Reached(node="b", ticket=3, outcome=outcome, rtt=rtt), 2.0)  # type: ignore[arg-type]
        assert isinstance(told, Publish)
        expected = ReachTold(node="a", suspect="b", ticket=3, outcome=outcome, rtt_ms=rtt_ms)  # type: ignore[arg-type]
        assert told.message == expected

"""A node measures itself on request, unless it has better to do, and always answers."""

import random

from agents.base import Publish, StartWork
from agents.inputs import Woken
from agents.node import Measured, MeasuringWork, NodeAgent, NodeAgentSettings
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.measuring import Carried, MeasureNode, NodeMeasured
from schemas.nodes import PauseNode
from schemas.training import Roster
from schemas.wire import Message

REQUEST = JobRequest(kind="train", workload="m:w")
FOUND = NodeMeasured(
    node="ada",
    ticket="t1",
    device="cpu",
    parameters=10,
    microbatch=8,
    step_seconds=(0.1, 0.1),
    up=(Carried(bytes=1, seconds=1.0),),
    down=(Carried(bytes=1, seconds=1.0),),
)


class World:
    """A node's agent, awake."""

    def __init__(self) -> None:
        self.core = NodeAgent(NodeAgentSettings(node="ada"), random.Random(1))
        self.number = 0
        self.core.handle(Woken(incarnation=1, resumed=False, at=1.0), 1.0)

    def give(self, event: object) -> tuple[list[MeasuringWork], list[NodeMeasured]]:
        """What was begun, and what was answered."""
        effects = self.core.handle(event, 2.0, "cause")  # type: ignore[arg-type]
        self.core.check()
        begun = [e.work for e in effects if isinstance(e, StartWork) and isinstance(e.work, MeasuringWork)]
        said: list[Message] = [e.message for e in effects if isinstance(e, Publish)]
        return begun, [message for message in said if isinstance(message, NodeMeasured)]

    def ask(self, ticket: str = "t1") -> tuple[list[MeasuringWork], list[NodeMeasured]]:
        return self.give(MeasureNode(node="ada", ticket=ticket, request=REQUEST, streams=4, seconds=30.0))

    def job(self) -> None:
        """A job begins here."""
        self.give(Roster(job="j", version=1, nodes=("ada",), reducers=("ada",), quorum=1, reason=""))
        state = JobState(
            job="j", version=1, state=JobPhase.RUNNING, reason="", round=0, rounds=1, request=REQUEST, submitted_at=0.0
        )
        self.give(state)


def test_it_measures_itself_and_says_what_it_found() -> None:
    world = World()
    assert world.ask() == ([MeasuringWork(ticket="t1", request=REQUEST, streams=4, seconds=30.0)], [])
    assert world.give(Measured(found=FOUND)) == ([], [FOUND])
    assert world.ask("t2")[0], "and again"


def test_two_who_ask_at_once_would_measure_each_other() -> None:
    world = World()
    world.ask()
    begun, (said,) = world.ask("t2")
    assert not begun
    assert said.ticket == "t2"
    assert "ask again" in said.problem


def test_a_job_is_not_disturbed() -> None:
    world = World()
    world.job()
    begun, (said,) = world.ask()
    assert not begun
    assert "busy with j" in said.problem


def test_the_owner_is_not_disturbed() -> None:
    world = World()
    world.give(PauseNode(node="ada", pause=True, reason="a game"))
    begun, (said,) = world.ask()
    assert not begun
    assert "a game" in said.problem


def test_a_job_that_begins_meanwhile_spoils_the_figures() -> None:
    world = World()
    world.ask()
    world.job()
    _, (said,) = world.give(Measured(found=FOUND))
    assert "disturbed" in said.problem
    assert (said.ticket, said.step_seconds, said.up) == ("t1", (), ())


def test_a_node_that_starts_again_has_forgotten_it() -> None:
    world = World()
    world.ask()
    world.core.handle(Woken(incarnation=2, resumed=True, at=9.0), 9.0)
    assert world.ask("t2")[0]

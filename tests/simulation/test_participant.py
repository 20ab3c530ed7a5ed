"""A participant's lives: what a kill keeps, what is redone, and what a core's fault comes to."""

import random
from typing import Any

import msgspec
import pytest
from toys import Toy, heartbeat

from bus.port import Interest, Start
from bus.simulated_endpoint import Endpoint
from bus.simulated_network import SimulatedNetwork
from bus.simulated_requests import SimulatedRequests
from runners.simulation.checking import WHOLE
from runners.simulation.clocks import SkewedClock
from runners.simulation.participant import CoreRaised, Participant, Role
from schemas.decisions import ForceNode, NodeJoined, NodeLost, NodeQuarantined
from schemas.wire import Message, seal


class Place:
    """A toy on a network, and somebody who speaks to it and hears it."""

    def __init__(self, **role: Any) -> None:
        self.network = SimulatedNetwork(1)
        self.requests = SimulatedRequests(self.network)
        self.clock = SkewedClock(skew=30.0, drift=0.01)
        made = Role(**{"source": "toy", "make": lambda: Toy(random.Random(1))} | role)
        self.toy = Participant(made, self.network, self.requests, Endpoint("toy", 0.01, 0.0), self.clock)
        self.other = Endpoint("other", 0.01, 0.0)
        self.heard: list[Any] = []
        kinds = (NodeJoined, NodeLost, NodeQuarantined)
        self.network.subscribe(self.other, [Interest(kind) for kind in kinds], self._hear, start=Start.ALL)
        self._number = 0
        self.toy.begin()
        self.network.run(0.5)

    def _hear(self, message: Message, receipt: Any) -> None:
        self.heard.append(message)
        receipt.ack()

    def say(self, message: Message) -> None:
        self._number += 1
        seal(message, id=f"other:1:{self._number}", cause="", at=1.0, source="other")
        self.network.publish(self.other, message)

    def pass_(self, seconds: float) -> None:
        self.network.run(self.network.now + seconds)


def test_a_kill_that_keeps_all_loses_nothing_and_repeats_nothing() -> None:
    at = Place()
    at.say(heartbeat("a", interval=1000.0))
    at.say(ForceNode(node="x", do="include"))
    at.pass_(0.025)  # decided, and not yet stored
    assert at.heard == []
    state = at.toy.agent.state
    at.toy.kill("all")
    at.pass_(20.0)
    at.toy.begin()
    at.pass_(20.0)
    assert at.toy.agent.state.beats == state.beats == {"a": 1}
    assert at.toy.agent.state.lives == 2
    assert len(at.heard) == len({message.id for message in at.heard}) == 4
    assert at.toy.agent.state.log.count("force x include") == 1


def test_a_kill_that_keeps_nothing_reads_the_streams_again() -> None:
    at = Place()
    at.say(ForceNode(node="x", do="include"))
    at.pass_(1.0)
    at.toy.kill("nothing")
    at.toy.begin()
    at.pass_(1.0)
    assert at.toy.agent.state.log.count("force x include") == 1
    assert at.toy.agent.state.lives == 1


def test_a_stale_state_is_an_older_one() -> None:
    at = Place()
    at.say(heartbeat("a", 1, interval=1000.0))
    at.pass_(1.0)
    at.toy.remember()
    at.say(heartbeat("a", 2, interval=1000.0))
    at.pass_(1.0)
    at.toy.kill("stale")
    at.toy.begin()
    assert at.toy.agent.state.beats == {"a": 1}


def test_timers_keep_the_participants_own_time_through_a_kill() -> None:
    at = Place()
    at.say(heartbeat("soon", interval=5.0))
    at.say(heartbeat("later", interval=50.0))
    at.pass_(1.0)
    at.toy.kill("all")
    at.pass_(20.0)
    at.toy.begin()
    at.pass_(1.0)
    assert [m.node for m in at.heard if isinstance(m, NodeLost)] == [], "it hears first what it missed"
    at.pass_(3.0)
    assert [m.node for m in at.heard if isinstance(m, NodeLost)] == ["soon"]
    at.pass_(30.0)
    assert [m.node for m in at.heard if isinstance(m, NodeLost)] == ["soon", "later"]


def test_without_a_journal_each_life_starts_afresh() -> None:
    at = Place(lasting=False, start=Start.NEW)
    at.say(heartbeat("a", interval=1000.0))
    at.say(ForceNode(node="x", do="include"))
    at.pass_(1.0)
    at.toy.kill("all")
    at.toy.begin()
    at.pass_(1.0)
    assert at.toy.agent.state.beats == {}
    assert at.toy.agent.state.log == ["woken resumed=False", "probe 1 True"]


def test_a_core_that_raises_ends_the_simulation_with_its_name() -> None:
    at = Place()
    at.say(ForceNode(node="x", do="include", reason="raise"))
    with pytest.raises(CoreRaised, match=r"toy raised on a ForceNode .* as you wish"):
        at.pass_(1.0)


def test_requests_are_answered_once_what_they_led_to_is_stored() -> None:
    at = Place()
    answers: list[Any] = []
    body = b'{"kind": "train", "workload": "a:b", "id": "mine"}'
    at.requests.ask(at.other, "shoal.jobs.submit", body, 5.0, answers.append)
    at.requests.ask(at.other, "shoal.jobs.submit", b"{}", 5.0, answers.append)
    at.pass_(10.0)
    refused, accepted = answers
    assert accepted == b'{"accepted":true,"job":"mine"}'
    assert b'"field":"$.kind"' in refused


class Careless(Toy):
    """Thinks that no input but a person's word touches anything."""

    def check(self) -> None:
        self.require(self.state.beats.get("a", 0) < 3, "three beats")

    def check_after(self, event: msgspec.Struct) -> None:
        if isinstance(event, ForceNode):
            self.check()


def test_what_a_core_leaves_out_of_its_checks_is_found_a_little_later() -> None:
    at = Place(make=lambda: Careless(random.Random(1)))
    for number in range(10):
        at.say(heartbeat("a", number, interval=1000.0))
    at.pass_(1.0)
    assert at.toy.agent.state.beats["a"] == 10
    for number in range(10, 10 + WHOLE):
        at.say(heartbeat("a", number, interval=1000.0))
    with pytest.raises(CoreRaised, match="three beats"):
        at.pass_(1.0)
    assert at.toy.inputs == WHOLE

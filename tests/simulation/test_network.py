"""The simulated network by itself: what each fault does, and what none of them may do."""

from typing import Any

import pytest

from bus.port import Interest, Start, SubjectTaken
from bus.simulated_endpoint import Endpoint
from bus.simulated_faults import PRESETS, Faults, UnknownFaults, faults_named
from bus.simulated_network import ACK_WAIT, RESEND, SimulatedNetwork
from schemas.nodes import NodeHeartbeat, NodeLeaving
from schemas.training import Assignment, Share
from schemas.wire import Message, seal

LATENCY = 0.01


class Ear:
    """What an endpoint hears, with the times."""

    def __init__(self, network: SimulatedNetwork, *, acks: bool = True) -> None:
        self.network = network
        self.acks = acks
        self.heard: list[tuple[float, Any, Any]] = []

    def __call__(self, message: Message, receipt: Any) -> None:
        self.heard.append((self.network.now, message, receipt))
        if receipt is not None and self.acks:
            receipt.ack()

    @property
    def numbers(self) -> list[float]:
        return [message.at for _, message, _ in self.heard]


def beat(number: int) -> NodeHeartbeat:
    return sealed(NodeHeartbeat(node="a", sequence=number, interval=1.0), number)


def leaving(number: int, node: str = "a") -> NodeLeaving:
    return sealed(NodeLeaving(node=node, reason="test"), number)


def sealed(message: Any, number: int) -> Any:
    return seal(message, id=f"t:1:{number}", cause="", at=float(number), source="t")


def pair(faults: Faults = PRESETS["none"], *, seed: int = 1) -> tuple[SimulatedNetwork, Endpoint, Endpoint]:
    network = SimulatedNetwork(seed, faults)
    return network, Endpoint("from", LATENCY, 0.0), Endpoint("to", LATENCY, 0.0)


def test_nobodys_handler_runs_inside_publish() -> None:
    network, sender, receiver = pair()
    ear = Ear(network)
    network.subscribe(receiver, [Interest(NodeHeartbeat), Interest(NodeLeaving)], ear)
    network.publish(sender, beat(1))
    network.publish(sender, leaving(2))
    assert ear.heard == []
    network.run(1.0)
    assert [(round(at, 6), message.at) for at, message, _ in ear.heard] == [(2 * LATENCY, 1.0), (2 * LATENCY, 2.0)]


def test_telemetry_gets_lost_and_records_do_not() -> None:
    network, sender, receiver = pair(Faults(drop=0.3))
    ear = Ear(network)
    network.subscribe(receiver, [Interest(NodeHeartbeat), Interest(NodeLeaving)], ear)
    stored: list[object] = []
    for number in range(200):
        network.publish(sender, beat(number))
        network.publish(sender, leaving(1000 + number), done=stored.append)
    network.run(300.0)
    beats = [number for number in ear.numbers if number < 1000]
    assert 50 < len(beats) < 140
    assert {number for number in ear.numbers if number >= 1000} == set(range(1000, 1200))
    assert stored == [None] * 200


def test_duplicates_and_overtaking_happen_as_often_as_asked() -> None:
    network, sender, receiver = pair(Faults(duplicate=0.2, reorder=0.2, reorder_seconds=1.0))
    ear = Ear(network)
    network.subscribe(receiver, [Interest(NodeHeartbeat)], ear)
    for number in range(500):
        network.at(number * 0.01, lambda n: network.publish(sender, beat(n)), number)
    network.run(60.0)
    assert 560 < len(ear.numbers) < 640
    assert sorted(set(ear.numbers)) == list(range(500))
    assert ear.numbers != sorted(ear.numbers)


def test_without_faults_a_link_keeps_its_order_whatever_its_jitter() -> None:
    network = SimulatedNetwork(1)
    sender, receiver, ear = Endpoint("from", 0.01, 0.5), Endpoint("to", 0.01, 0.5), Ear(network)
    network.subscribe(receiver, [Interest(NodeHeartbeat)], ear)
    for number in range(200):
        network.publish(sender, beat(number))
    network.run(10.0)
    assert ear.numbers == list(range(200))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_partition_holds_up_records_and_loses_telemetry(direction: str) -> None:
    network, sender, receiver = pair()
    ear = Ear(network)
    network.subscribe(receiver, [Interest(NodeHeartbeat), Interest(NodeLeaving)], ear)
    if direction == "up":
        sender.up_cut = 30.0
    else:
        receiver.down_cut = 30.0
    network.publish(sender, beat(1))
    network.publish(sender, leaving(2))
    network.run(29.0)
    assert ear.numbers == []
    network.run(30.0 + max(ACK_WAIT, RESEND) + 1.0)
    assert ear.numbers == [2]


def test_one_way_partition_of_acknowledgements_repeats_the_delivery() -> None:
    network, sender, receiver = pair()
    ear = Ear(network)
    network.subscribe(receiver, [Interest(NodeLeaving)], ear)
    receiver.up_cut = 12.0
    network.publish(sender, leaving(1))
    network.run(60.0)
    assert ear.numbers == [1, 1, 1, 1]
    assert [receipt.redelivered for _, _, receipt in ear.heard] == [False, True, True, True]


def test_a_lost_answer_of_the_stream_stores_nothing_twice() -> None:
    network, sender, receiver = pair()
    ear, outcomes = Ear(network), []
    network.subscribe(receiver, [Interest(NodeLeaving)], ear)
    sender.down_cut = 3.5
    network.publish(sender, leaving(1), name="effect", first=True, done=outcomes.append)
    network.run(10.0)
    assert ear.numbers == [1]
    assert outcomes == [None], "its own message, sent again, isn't another writer's"
    network.publish(sender, leaving(2), name="other", first=True, done=outcomes.append)
    network.run(20.0)
    assert isinstance(outcomes[1], SubjectTaken)


def test_who_stands_still_gets_all_afterwards_in_order() -> None:
    network, sender, receiver = pair()
    ear = Ear(network)
    network.subscribe(receiver, [Interest(NodeHeartbeat)], ear)
    receiver.paused = 20.0
    for number in range(5):
        network.at(float(number), lambda n: network.publish(sender, beat(n)), number)
    network.run(30.0)
    assert [(at, message.at) for at, message, _ in ear.heard] == [(20.0, float(n)) for n in range(5)]


def test_a_crash_loses_what_was_on_its_way_and_a_durable_gets_it_again() -> None:
    network, sender, receiver = pair()
    first, second = Ear(network, acks=False), Ear(network)
    network.subscribe(receiver, [Interest(NodeLeaving), Interest(NodeHeartbeat)], first, durable="d", start=Start.ALL)
    network.publish(sender, leaving(1))
    network.run(1.0)
    network.publish(sender, leaving(2))
    network.publish(sender, beat(3))
    network.cut_off(receiver)
    network.run(2.0)
    assert first.numbers == [1]
    network.subscribe(receiver, [Interest(NodeLeaving), Interest(NodeHeartbeat)], second, durable="d")
    network.run(3.0)
    assert second.numbers == [1, 2]


def test_receivers_share_only_what_cannot_change() -> None:
    network, sender, receiver = pair()
    ears = [Ear(network), Ear(network), Ear(network)]
    for ear in ears:
        network.subscribe(receiver, [Interest(Assignment), Interest(NodeHeartbeat)], ear)
    share = Share(microbatch=1, local_steps=1, encoding="float32")
    assignment = Assignment(
        job="j",
        version=1,
        roster_version=1,
        shares={"a": share},
        average_encoding="float32",
        round_seconds=1.0,
        deadline_seconds=1.0,
        strategy="fixed",
        reason="test",
    )
    network.publish(sender, sealed(assignment, 1))
    network.run(1.0)
    first, second, third = (ear.heard[0][1] for ear in ears)
    first.shares.clear()
    second.shares["b"] = share
    assert third.shares == {"a": share}
    assert assignment.shares == {"a": share}
    late = Ear(network)
    network.subscribe(Endpoint("late", LATENCY, 0.0), [Interest(Assignment)], late)
    network.publish(sender, beat(2))
    network.run(2.0)
    assert late.heard[0][1] == third, "what a receiver changes, nobody gets later either"
    assert ears[0].heard[1][1] is ears[1].heard[1][1]


def test_one_seed_is_one_run() -> None:
    def run(seed: int) -> tuple[list[float], str]:
        network, sender, receiver = pair(PRESETS["heavy"], seed=seed)
        ear = Ear(network)
        network.subscribe(receiver, [Interest(NodeHeartbeat), Interest(NodeLeaving)], ear)
        for number in range(100):
            network.publish(sender, beat(number))
            network.publish(sender, leaving(number))
        network.run(100.0)
        assert network.trace is not None
        return ear.numbers, network.trace.hexdigest()

    assert run(1) == run(1)
    assert run(1)[0] != run(2)[0]


def test_an_unknown_set_of_faults_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownFaults, match="none, light, default, heavy, forgetful"):
        faults_named("sunny")

"""The network monitor under any mix of events: invariants after each, and what it says is consistent."""

import random

import msgspec
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agents.effects import Effect, Publish, SetTimer, Timer
from agents.inputs import Woken
from agents.network_monitor import NetworkMonitor, NetworkMonitorSettings, NetworkMonitorState
from schemas.bus import BusDisturbed
from schemas.decisions import NodeLost
from schemas.network import LinkProbed, LinkQuality, LinkQualityChanged, NetworkSummary
from schemas.nodes import NodeLeaving, NodeProfile

NODES = st.sampled_from(["a", "b", "c"])
RTT = st.one_of(st.none(), st.floats(0, 3000), st.just(30.0))


class MonitorMachine(RuleBasedStateMachine):
    """Drives a monitor and a twin that is rebuilt from its serialised state now and then: they must not differ."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = NetworkMonitorSettings(window=20, warm_up=2, dwell_worse=2, dwell_better=3, links_kept=16)
        self.core = NetworkMonitor(self.settings, random.Random(0))
        self.now = 0.0
        self.timers: dict[Timer, float] = {}
        self.sequence = {"a": 0, "b": 0, "c": 0}
        self.published: dict[str, LinkQualityChanged] = {}
        self.summaries: list[NetworkSummary] = []

    def tell(self, event: msgspec.Struct) -> list[Effect]:
        memory = msgspec.msgpack.encode(self.core.state)
        twin = NetworkMonitor(self.settings, random.Random(0), msgspec.msgpack.decode(memory, type=NetworkMonitorState))
        effects = self.core.handle(event, self.now)
        assert twin.handle(event, self.now) == effects, "the state doesn't hold all that the core knows"
        for effect in effects:
            if isinstance(effect, SetTimer):
                assert effect.at >= self.now
                self.timers[effect.timer] = effect.at
            elif isinstance(effect, Publish):
                self.said(effect)
        return effects

    def said(self, effect: Publish) -> None:
        message = effect.message
        if isinstance(message, LinkQualityChanged):
            last = self.published.get(message.node)
            if last is not None:
                assert message.version == last.version + 1
                assert message.previous is last.quality
                assert message.quality is not last.quality
            assert 0 <= message.score <= 100
            assert 0 <= message.loss <= 1
            assert message.reason
            self.published[message.node] = message
        elif isinstance(message, NetworkSummary):
            assert sum(count.nodes for count in message.grades) == message.nodes
            assert message.version == len(self.summaries) + 1
            self.summaries.append(message)

    @rule(node=NODES, rtt=RTT, count=st.integers(1, 12), step=st.sampled_from([1, 1, 1, 2, 50]))
    def probes(self, node: str, rtt: float | None, count: int, step: int) -> None:
        for _ in range(count):
            self.sequence[node] += step
            self.tell(LinkProbed(node=node, sequence=self.sequence[node], rtt_ms=rtt))
            self.core.check()
            self.pass_time(0.5)

    @rule(node=NODES, back=st.integers(0, 20))
    def repeats(self, node: str, back: int) -> None:
        event = LinkProbed(node=node, sequence=max(0, self.sequence[node] - back), rtt_ms=900.0)
        link = self.core.state.links.get(node)
        if link is not None and link.sequence == self.sequence[node]:
            assert self.tell(event) == []

    @rule(seconds=st.floats(0.1, 30))
    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [(at, repr(timer), timer) for timer, at in self.timers.items() if at <= end]:
            at, _, timer = min(due, key=lambda entry: entry[:2])
            del self.timers[timer]
            self.now = max(self.now, at)
            self.tell(timer)
            self.core.check()
        self.now = end

    @rule(node=NODES)
    def leaves(self, node: str) -> None:
        self.tell(NodeLeaving(node=node, reason="asked to"))

    @rule(node=NODES)
    def dies(self, node: str) -> None:
        self.tell(NodeLost(node=node, silent_seconds=5.0, reason="heartbeats stopped"))

    @rule(node=NODES, version=st.integers(1, 5))
    def comes_up(self, node: str, version: int) -> None:
        self.tell(NodeProfile(node=node, version=version, host="h", site="h", cpus=1, memory_bytes=1))

    @rule(node=NODES)
    def reconnects(self, node: str) -> None:
        self.tell(BusDisturbed(source=f"node/{node}", kind="reconnected", reason="cut"))

    @rule()
    def hears_itself(self) -> None:
        for message in self.published.values():
            assert self.tell(message) == []

    @rule()
    def restarts(self) -> None:
        self.tell(Woken(incarnation=2, resumed=True, at=self.now))

    @invariant()
    def holds(self) -> None:
        self.core.check()
        for node, message in self.published.items():
            link = self.core.state.links[node]
            assert (link.quality, link.version) == (message.quality, message.version)
        for node, link in self.core.state.links.items():
            watching = any(getattr(timer, "node", None) == node for timer in self.timers)
            assert link.quality is LinkQuality.OFFLINE or watching


MonitorMachine.TestCase.settings = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None)
TestMonitorMachine = MonitorMachine.TestCase

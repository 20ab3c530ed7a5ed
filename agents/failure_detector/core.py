"""The failure detector: who is alive, learned from each node's own heartbeats, and said with a reason.

It only watches and says; what a death means for the jobs is up to the node selector, which has a time-out of its own for
the case that nobody watches.
"""

import random

import msgspec

from agents.base import Effects, Probe, Reach, SetTimer, Timer, on
from agents.failure_detector import ears, policy, words
from agents.failure_detector.anomalies import Anomalies
from agents.failure_detector.doubts import is_in_time
from agents.failure_detector.settings import FailureDetectorSettings
from agents.failure_detector.state import Ears, FailureDetectorState, Watched
from agents.inputs import ProbeReturned, Woken
from schemas import figures
from schemas.bus import BusDisturbed
from schemas.health import DetectorWatching
from schemas.ids import NodeId, incarnation_of, is_older
from schemas.nodes import NodeHeartbeat, NodeLeaving

_NODE = "node/"
GREETING = 0
"""Ticket of the request that a node is sent as its life begins: whether it answers such, and how far away it is."""


class Pulse(Timer, frozen=True, kw_only=True):
    """Time to look at the detector's own health, and to say that it lives."""


class FailureDetector(Anomalies):
    """Owner of `NodeHealth`, `WorkStalled` and `FigureChanged`."""

    def __init__(
        self, settings: FailureDetectorSettings, rng: random.Random, state: FailureDetectorState | None = None
    ) -> None:
        super().__init__(state or FailureDetectorState(), rng)
        self.settings = settings

    # Its own health.

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """It was deaf itself: silences count from now, and every deadline is set again."""
        self.state.ears = Ears(since=now, probes=self.state.ears.probes)
        self.state.slots.clear()
        self.state.doubts.clear()
        for name, node in self.state.nodes.items():
            node.doubt, node.slot = None, 0
            if name not in self.state.gone:
                yield from self._file(name, node, now + policy.doubtful(node, self.settings))
        yield from self.pulse(Pulse(), now)

    @on(Pulse)
    def pulse(self, timer: Pulse, now: float) -> Effects:
        """Alive, and how well it hears."""
        state, s = self.state, self.settings
        yield Probe(sequence=ears.pulse(state.ears, now, s), timeout=s.reach_timeout_seconds)
        yield self.publish(
            DetectorWatching(
                nodes=len(state.nodes) - len(state.gone),
                suspects=sum(state.nodes[name].state == "suspect" for name in state.doubts),
                hears=not state.ears.deaf,
                strain=state.ears.strain,
            )
        )
        yield SetTimer(timer=timer, at=now + s.pulse_seconds)

    @on(ProbeReturned)
    def heed_probe(self, event: ProbeReturned, now: float) -> None:
        """Whether the server can be heard."""
        ears.heed_probe(self.state.ears, event.sequence, event.rtt is not None, now)

    @on(BusDisturbed)
    def heed_reconnection(self, event: BusDisturbed, now: float) -> Effects:
        """Its own connection was made anew: what was said meanwhile is lost. Or a node's, which lives then."""
        if event.kind != "reconnected":
            return
        if event.source == self.name:
            ears.wake(self.state.ears, now)
        node = self.state.nodes.get(event.source.removeprefix(_NODE))
        if event.source.startswith(_NODE) and node is not None and node.doubt is not None:
            yield from self._trust(event.source.removeprefix(_NODE), node, "it is connected again", now)

    # Nodes.

    @on(NodeHeartbeat)
    def hear(self, event: NodeHeartbeat, now: float) -> Effects:
        """A sign of life, and one more gap to learn from."""
        ears.stood_still(self.state.ears, now, self.settings)
        life, interval = incarnation_of(event.id), policy.bounded_interval(event.interval)
        node = self._watched(event.node, interval)
        if life and life == node.left:
            return  # overtaken by its own goodbye
        if interval != node.interval:
            node.interval, node.gaps = interval, policy.unknown(interval, self.settings)
        born, silent, known = life != node.life, now - node.heard_at, node.version >= 0
        if not born and node.state == "dead":
            policy.learn_return(node, silent, self.settings)
        elif not born and event.sequence > node.beat and node.heard_at >= self.state.ears.since:
            policy.learn(node.gaps, silent, interval)
            node.away *= 1.0 - policy.FORGET
        node.life, node.beat, node.heard_at, node.last = life, max(event.sequence, 0), now, event.id
        if event.node in self.state.gone or not known:
            self.state.gone.pop(event.node, None)
            node.sign_at = node.present_since = now
            how = words.back(silent, "its heartbeats are back") if known else words.began()
            yield self._say(event.node, node, "alive", how, now)
        if node.doubt is None and node.state == "alive":  # nearly always
            node.sign_at = now
            due = now + policy.doubtful(node, self.settings)
            if not self._is_filed(node, due):
                yield from self._file(event.node, node, due)
        else:
            yield from self._trust(event.node, node, "its heartbeats are back", now)
        if born:
            yield Reach(node=event.node, ticket=GREETING, timeout=self.settings.reach_timeout_seconds)
        yield from self._follow(figures.of_heartbeat(event))

    @on(NodeLeaving)
    def see_off(self, event: NodeLeaving, now: float) -> Effects:
        """A goodbye ends all watching, unless the node has begun another life since."""
        node, life = self.state.nodes.get(event.node), incarnation_of(event.id)
        if node is None or is_older(life, node.life):
            return
        node.left = life
        if event.node not in self.state.gone:
            yield from self._bury(event.node, node, "left", f"it said goodbye: {event.reason}", now)

    def _watched(self, name: NodeId, interval: float) -> Watched:
        """The record of a node; where there are too many, the longest dead gives way."""
        nodes, gone = self.state.nodes, self.state.gone
        if name not in nodes:
            if len(nodes) >= self.settings.nodes_kept and gone:
                oldest = next(iter(gone))
                del gone[oldest], nodes[oldest]
            nodes[name] = Watched(gaps=policy.unknown(interval, self.settings), interval=interval)
        return nodes[name]

    # Invariants.

    def check(self) -> None:
        """Everybody alive is looked at in time, nobody else is; what is doubted is known to be."""
        for name in self.state.nodes:
            self._check(name)
        for table in (self.state.gone, self.state.doubts):
            self.require(table.keys() <= self.state.nodes.keys(), "a node is known in part")
        filed = {name for names in self.state.slots.values() for name in names}
        here = self.state.nodes.keys() - self.state.gone.keys()
        self.require(here <= filed, "a deadline is not looked at")
        alive = len(here)
        self.require(len(self.state.nodes) <= max(self.settings.nodes_kept, alive + 1), "too many nodes are remembered")
        self.require(0 <= self.state.ears.strain <= ears.MOST, "a strain beyond all bounds")

    def check_after(self, event: msgspec.Struct) -> None:
        """A word about one node changes that one alone."""
        for name in (getattr(event, "node", None), getattr(event, "suspect", None)):
            if name in self.state.nodes:
                self._check(name)

    def _check(self, name: NodeId) -> None:
        node, gone = self.state.nodes[name], name in self.state.gone
        soon = is_in_time(node.slot, node.due, node.interval)
        if soon and node.state == "alive" and node.doubt is None and not gone and node.slot > 0:
            self.require(name not in self.state.doubts, f"{name} is doubted in part")
            return  # nearly always, and four times as fast
        self.require(gone == (node.state in ("dead", "left")), f"{name} is {node.state} and {'gone' if gone else 'there'}")
        self.require((node.doubt is not None) == (name in self.state.doubts), f"{name} is doubted in part")
        self.require(not gone or (node.doubt is None and not node.slot), f"{name} is gone and watched")
        self.require(gone or node.slot > 0, f"{name} is not looked at")
        self.require(gone or soon, f"{name} is looked at late")

"""Drives a failure detector in virtual time: nodes that beat, answer, lose their connection, or stand still."""

import heapq
import random
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from agents.base import Probe, Publish, Reach, SetTimer, Timer
from agents.failure_detector import FailureDetector, FailureDetectorSettings, FailureDetectorState
from agents.inputs import ProbeReturned, Reached, Woken
from schemas.health import NodeHealth, Outcome, ReachAsked, ReachTold
from schemas.network import LinkProbed
from schemas.nodes import NodeHeartbeat, NodeLeaving
from schemas.wire import Message, seal

M = TypeVar("M", bound=Message)
START = 1_000_000.0
RTT = 0.02


class Detected:
    """One detector, its clock, its nodes, and everything it has said."""

    def __init__(self, *names: str, interval: float = 1.0, seed: int = 1, **settings: Any) -> None:
        self.settings = FailureDetectorSettings(**settings)
        self.core = FailureDetector(self.settings, random.Random(seed))
        self.rng = random.Random(seed)
        self.now = START
        self.interval = interval
        self.timers: dict[Timer, int] = {}
        self.coming: list[tuple[float, int, Timer | None, Callable[[], None]]] = []
        self.said: list[tuple[float, Message]] = []
        self.causes: dict[int, str] = {}
        self.count = 0
        self.beats: dict[str, int] = {}
        self.lives: dict[str, int] = {}
        self.state: dict[str, str] = {}
        """`up`, `gone` (its connection has ended), `stuck` (it stands still), `quiet` (it answers, but doesn't beat)."""
        self.delay: Callable[[str], float] = lambda node: 0.0
        """Seconds that a heartbeat is held up by."""
        self.to_others: Callable[[str], Outcome] | None = None
        """What other nodes hear of a node, where that differs from what the detector hears."""
        self.cut_off = False
        """The detector hears nothing, nor does the server hear it."""
        self.give(Woken(incarnation=1, resumed=False, at=START))
        for offset, name in enumerate(names):
            self.start(name, offset * interval / max(1, len(names)))

    # Nodes.

    def start(self, name: str, after: float = 0.0) -> None:
        """A node's process begins, with its first heartbeat."""
        self.lives[name] = self.lives.get(name, 0) + 1
        self.state[name], self.beats[name] = "up", 0
        self.at(self.now + after, lambda: self._beat(name, self.lives[name]))

    def _beat(self, name: str, life: int) -> None:
        if self.lives[name] != life or self.state[name] == "gone":
            return
        if self.state[name] == "up":
            self.beats[name] += 1
            heartbeat = NodeHeartbeat(node=name, sequence=self.beats[name], interval=self.interval)
            self.at(self.now + self.delay(name), lambda: None if self.cut_off else self.hear(heartbeat, life))
        self.at(self.now + self.interval, lambda: self._beat(name, life))

    def hear(self, event: Message, life: int) -> None:
        """A word of a node."""
        self.count += 1
        node = getattr(event, "node", "someone")
        seal(event, id=f"node/{node}:{life}:{self.count}", cause="", at=self.now, source=f"node/{node}")
        self.give(event)

    def probed(self, name: str, rtt_ms: float) -> None:
        """A node has measured its link for a while."""
        for number in range(20):
            self.hear(LinkProbed(node=name, sequence=number, rtt_ms=rtt_ms), self.lives[name])

    def leave(self, name: str) -> None:
        """A goodbye."""
        self.state[name] = "gone"
        self.hear(NodeLeaving(node=name, reason="told to"), self.lives[name])

    def _outcome(self, name: str) -> Outcome:
        outcomes: dict[str, Outcome] = {"up": "answered", "quiet": "answered", "gone": "absent"}
        return outcomes.get(self.state.get(name, "gone"), "silent")

    # Time.

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do something then."""
        self.count += 1
        heapq.heappush(self.coming, (when, self.count, None, what))

    def run(self, seconds: float) -> None:
        """Time goes by."""
        end = self.now + seconds
        while self.coming and self.coming[0][0] <= end:
            when, number, timer, what = heapq.heappop(self.coming)
            if timer is not None and self.timers.get(timer) != number:
                continue  # it was set anew, or is an earlier life's
            self.now = max(self.now, when)
            if timer is not None:
                del self.timers[timer]
            what()
        self.core.check()
        self.now = end

    def stand_still(self, seconds: float) -> None:
        """The detector's process is stopped: what nodes say meanwhile comes in at once afterwards."""
        self.now += seconds

    # The detector.

    def give(self, event: msgspec.Struct, cause: str = "") -> None:
        """One input, and what comes of its effects."""
        for effect in self.core.handle(event, self.now, cause):
            match effect:
                case SetTimer():
                    self.count += 1
                    self.timers[effect.timer] = self.count
                    timer = effect.timer
                    heapq.heappush(self.coming, (effect.at, self.count, timer, lambda timer=timer: self.give(timer)))
                case Probe():
                    rtt = None if self.cut_off else RTT
                    back = ProbeReturned(sequence=effect.sequence, rtt=rtt)
                    self.at(self.now + (effect.timeout if rtt is None else rtt), lambda back=back: self.give(back))
                case Reach():
                    outcome: Outcome = "silent" if self.cut_off else self._outcome(effect.node)
                    self._answer(effect.node, effect.ticket, outcome, effect.timeout)
                case Publish():
                    self.said.append((self.now, effect.message))
                    self.causes[id(effect.message)] = effect.cause
                    if isinstance(effect.message, ReachAsked) and not self.cut_off:
                        self._ask(effect.message)
        self.core.check_after(event)

    def _answer(self, node: str, ticket: int, outcome: Outcome, timeout: float) -> None:
        back = Reached(node=node, ticket=ticket, outcome=outcome, rtt=RTT if outcome == "answered" else None)
        self.at(self.now + (timeout if outcome == "silent" else RTT), lambda: self.give(back))

    def _ask(self, asked: ReachAsked) -> None:
        if self.state.get(asked.node) != "up":
            return
        outcome = self.to_others(asked.suspect) if self.to_others else self._outcome(asked.suspect)
        told = ReachTold(node=asked.node, suspect=asked.suspect, ticket=asked.ticket, outcome=outcome)
        after = 0.5 if outcome == "silent" else RTT
        self.at(self.now + after, lambda: self.hear(told, self.lives[asked.node]))

    def reborn(self) -> None:
        """The detector's process was restarted on its journal."""
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.core.state), type=FailureDetectorState)
        self.core = FailureDetector(self.settings, random.Random(2), state)
        self.timers.clear()
        self.give(Woken(incarnation=2, resumed=True, at=self.now))

    # What came of it.

    def all(self, kind: type[M]) -> list[M]:
        """Everything of a kind that was said."""
        return [message for _, message in self.said if isinstance(message, kind)]

    def states(self, node: str) -> list[str]:
        """What was said of a node, in order."""
        return [health.state for health in self.all(NodeHealth) if health.node == node]

    def when(self, node: str, state: str) -> float:
        """When a node was first said to be so, after the start."""
        return next(at for at, m in self.said if isinstance(m, NodeHealth) and (m.node, m.state) == (node, state))

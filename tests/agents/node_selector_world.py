"""Drives a node selector in virtual time: numbers the messages, keeps its timers, checks it after every input."""

import random
from math import floor
from typing import Any, TypeVar

import msgspec

from agents.base import CancelTimer, Probe, Publish, SetTimer, Timer
from agents.inputs import ProbeReturned, Woken
from agents.node_selector import NodeSelector, NodeSelectorSettings, NodeSelectorState
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeLeaving, WorkFailed
from schemas.training import Average, Contribution, Roster, RoundClosed, StepTimed, TrainerReady
from schemas.wire import Message, seal

M = TypeVar("M", bound=Message)
START = 1_000_000.0
AVERAGE = Average(key="1-1", size=1, digest="d", holders=())


def request(**fields: Any) -> JobRequest:
    """A job's request with whatever matters to a test."""
    return JobRequest(**{"kind": "train", "workload": "w:w", "rounds": 100} | fields)


class World:
    """One selector, its clock, its timers, and everything it has said."""

    def __init__(self, **settings: Any) -> None:
        self.settings = NodeSelectorSettings(**settings)
        self.core = NodeSelector(self.settings, random.Random(1))
        self.now = START
        self.timers: dict[Timer, tuple[float, int]] = {}
        self.said: list[Message] = []
        self.causes: list[str] = []
        self.probes: list[ProbeReturned] = []
        self.count = 0
        self.versions: dict[str, int] = {}
        self.lives: dict[str, int] = {}
        self.beating: set[str] = set()
        self.order: dict[str, int] = {}
        self.asked: dict[str, JobRequest] = {}
        self.interval = 1.0
        """Seconds between heartbeats, as nodes announce it; they come once a second whatever it is."""
        self.cut_off = False
        """The selector hears nothing: neither heartbeats nor the server's answers to its probes."""
        self.give(Woken(incarnation=1, resumed=False, at=START))

    # Inputs

    def give(self, event: msgspec.Struct, cause: str = "") -> list[Message]:
        """One input; gives what the selector published for it."""
        if isinstance(event, Message) and not event.id:
            self.count += 1
            source = getattr(event, "node", "someone")
            life = self.lives.get(source, 1)
            seal(event, id=f"node/{source}:{life}:{self.count}", cause="", at=self.now, source=f"node/{source}")
        published = []
        for effect in self.core.handle(event, self.now, cause):
            if isinstance(effect, SetTimer):
                self.count += 1
                self.timers[effect.timer] = (effect.at, self.count)
            elif isinstance(effect, CancelTimer):
                self.timers.pop(effect.timer, None)
            elif isinstance(effect, Probe):
                self.probes.append(ProbeReturned(sequence=effect.sequence, rtt=None if self.cut_off else 0.02))
            elif isinstance(effect, Publish):
                published.append(effect.message)
                self.causes.append(effect.cause)
        self.said += published
        self.core.check()
        while self.probes:
            self.give(self.probes.pop())
        return published

    def fire(self, until: float) -> None:
        """Timers that are due, in order."""
        while self.timers:
            timer, (at, _) = min(self.timers.items(), key=lambda item: item[1])
            if at > until:
                break
            del self.timers[timer]
            self.now = max(self.now, at)
            self.give(timer)

    def run(self, seconds: float) -> None:
        """Time goes by; all nodes in `beating` send a heartbeat a second."""
        end = self.now + seconds
        while (second := START + floor(self.now - START) + 1) <= end:
            self.fire(second)
            self.now = second
            heard = set() if self.cut_off else self.beating
            for node in sorted(heard, key=lambda name: (self.order.get(name, 0), name)):
                self.beat(node)
        self.fire(end)
        self.now = end

    def beat(self, node: str) -> list[Message]:
        """One heartbeat."""
        self.beating.add(node)
        return self.give(NodeHeartbeat(node=node, sequence=self.count, interval=self.interval))

    def kill(self, node: str) -> None:
        """No more heartbeats, no goodbye; its next life has another incarnation."""
        self.beating.discard(node)
        self.lives[node] = self.lives.get(node, 1) + 1

    def leave(self, node: str) -> list[Message]:
        """A goodbye."""
        said = self.give(NodeLeaving(node=node, reason="told to"))
        self.kill(node)
        return said

    def fleet(self, *nodes: str) -> None:
        """Nodes that live, and are settled."""
        for node in nodes:
            self.beat(node)
        self.run(1.0)

    def job(self, name: str = "j", state: JobPhase = JobPhase.QUEUED, **fields: Any) -> list[Message]:
        """The desk's word on a job, with a new version."""
        self.versions[name] = self.versions.get(name, 0) + 1
        if name not in self.asked or fields:
            self.asked[name] = request(**fields)
        asked = self.asked[name]
        return self.give(
            JobState(
                job=name,
                version=self.versions[name],
                state=state,
                reason="",
                round=0,
                rounds=asked.rounds,
                request=asked,
                submitted_at=self.now,
            )
        )

    def start(self, name: str = "j", **fields: Any) -> None:
        """A job that runs, with all processes ready."""
        self.job(name, **fields)
        self.job(name, JobPhase.RUNNING)
        for node in self.roster(name).nodes:
            self.ready(node, name)

    def ready(self, node: str, name: str = "j") -> None:
        """A process is up."""
        self.give(TrainerReady(job=name, node=node, version=0, digest="d", parameters=1, device="cpu"))

    def steps(self, node: str, seconds: float, samples: int = 80, name: str = "j") -> list[Message]:
        """A node timed its steps."""
        return self.give(
            StepTimed(job=name, node=node, round=1, steps=10, samples=samples, seconds=seconds, microbatch=8, loss=1.0)
        )

    def close(
        self,
        *there: str,
        missing: tuple[str, ...] = (),
        late: dict[str, int] | None = None,
        seconds: float = 6.0,
        name: str = "j",
        samples: dict[str, int] | None = None,
    ) -> list[Message]:
        """The next round closes with contributions of `there` and `late` (rounds late)."""
        job = self.core.state.jobs[name]
        number = job.round + 1
        behind = dict.fromkeys(there, 0) | (late or {})
        given = tuple(
            Contribution(
                node=node, round=number - rounds, late=rounds, samples=(samples or {}).get(node, 8), weight=0.1, loss=1.0
            )
            for node, rounds in behind.items()
        )
        reducer = job.reducers[0] if job.reducers else "n"
        return self.give(
            RoundClosed(
                job=name,
                round=number,
                term=1,
                reducer=reducer,
                next_reducer=reducer,
                contributions=given,
                missing=missing,
                average=AVERAGE,
                samples=8,
                loss=1.0,
                seconds=seconds,
                on_time=not missing,
                reason="",
            )
        )

    def rounds(self, count: int, missing: tuple[str, ...] = (), name: str = "j") -> None:
        """Rounds to which everybody in the roster but `missing` contributes."""
        for _ in range(count):
            nodes = self.core.state.jobs[name].nodes
            absent = tuple(node for node in missing if node in nodes)
            self.close(*[node for node in nodes if node not in missing], missing=absent, name=name)

    def link(self, node: str, score: float, quality: LinkQuality = LinkQuality.GOOD) -> list[Message]:
        """A node's link has another score."""
        self.count += 1
        return self.give(
            LinkQualityChanged(
                node=node,
                version=self.count,
                quality=quality,
                previous=None,
                score=score,
                latency_ms=1.0,
                jitter_ms=0.0,
                loss=0.0,
                trend="stable",
                reason="",
            )
        )

    def crash(self, node: str, kind: str = "killed", retry: bool = True, name: str = "j") -> list[Message]:
        """A job process failed."""
        return self.give(
            WorkFailed(
                node=node, job=name, attempt=1, kind=kind, code=1, last_lines=(), retry=retry, reason=f"it was {kind}"
            )
        )

    def reborn(self, *, remembers: bool) -> None:
        """The selector's process was restarted; its timers are gone, its state may be, too."""
        state = None
        if remembers:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.core.state), type=NodeSelectorState)
        self.core = NodeSelector(self.settings, random.Random(2), state)
        self.timers.clear()
        self.give(Woken(incarnation=2, resumed=remembers, at=self.now))

    # What came of it

    def all(self, kind: type[M]) -> list[M]:
        """Everything of a kind that was said."""
        return [message for message in self.said if isinstance(message, kind)]

    def last(self, kind: type[M]) -> M:
        """The newest of a kind."""
        return self.all(kind)[-1]

    def roster(self, name: str = "j") -> Roster:
        """A job's newest roster."""
        return [roster for roster in self.all(Roster) if roster.job == name][-1]

    def why(self, node: str, name: str = "j") -> str:
        """Why a node is out of a job's roster."""
        return {exclusion.node: exclusion.reason for exclusion in self.roster(name).excluded}[node]

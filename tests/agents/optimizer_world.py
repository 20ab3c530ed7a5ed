"""Drives an optimizer: numbers the messages, checks its invariants after every input, remembers what it said."""

import random
from typing import Any, TypeVar

import msgspec

from agents.base import Publish, SetTimer, Timer
from agents.inputs import Woken
from agents.optimizer import Optimizer, OptimizerSettings, OptimizerState
from schemas.decisions import AgentUsage, NodeLost
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.training import Assignment, Average, RoundClosed, Share, Tuning, Validated
from schemas.wire import Message, seal

M = TypeVar("M", bound=Message)
START = 1_000_000.0
AVERAGE = Average(key="1-1", size=1, digest="d", holders=())


class World:
    """One optimizer and its clock; a job whose rounds take 6 s and whose loss falls as it should."""

    def __init__(self, **settings: Any) -> None:
        self.settings = OptimizerSettings(**settings)
        self.core = Optimizer(self.settings, random.Random(1))
        self.now = START
        self.count = 0
        self.said: list[Message] = []
        self.causes: list[str] = []
        self.versions: dict[str, int] = {}
        self.asked: dict[str, JobRequest] = {}
        self.round = 0
        self.assignment = 0
        self.timers: dict[Timer, float] = {}

    def give(self, event: msgspec.Struct) -> list[Message]:
        """One input; gives what the optimizer published for it."""
        if isinstance(event, Message) and not event.id:
            self.count += 1
            seal(event, id=f"x:1:{self.count}", cause="", at=self.now, source="x")
        published = []
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, SetTimer):
                self.timers[effect.timer] = effect.at
                continue
            assert isinstance(effect, Publish)
            published.append(effect.message)
            self.causes.append(effect.cause)
        self.said += published
        self.core.check()
        return published

    def job(self, state: JobPhase = JobPhase.RUNNING, name: str = "j", round: int = 0, **fields: Any) -> list[Message]:
        """The desk's word on a job."""
        if name not in self.asked or fields:
            self.asked[name] = JobRequest(**{"kind": "train", "workload": "w:w", "rounds": 100} | fields)
        self.versions[name] = self.versions.get(name, 0) + 1
        return self.give(
            JobState(
                job=name,
                version=self.versions[name],
                state=state,
                reason="",
                round=round,
                rounds=self.asked[name].rounds,
                request=self.asked[name],
                submitted_at=self.now,
            )
        )

    def close(
        self,
        rate: float = 100.0,
        loss: float | None = None,
        seconds: float = 6.0,
        name: str = "j",
        missing: tuple[str, ...] = (),
    ) -> list[Message]:
        """The next round closes; its loss falls by 3 % a round unless told."""
        self.round += 1
        self.now += seconds
        return self.give(
            RoundClosed(
                job=name,
                round=self.round,
                term=1,
                reducer="a",
                next_reducer="a",
                contributions=(),
                missing=missing,
                average=AVERAGE,
                samples=round(rate * seconds),
                loss=5.0 * 0.97**self.round if loss is None else loss,
                seconds=seconds,
                on_time=True,
                reason="",
            )
        )

    def rounds(self, count: int, rate: float = 100.0, **fields: Any) -> None:
        """Rounds that are all alike but for 2 % of noise."""
        for _ in range(count):
            self.close(rate * (1 + 0.02 * ((self.round * 7) % 3 - 1)), **fields)

    def assign(
        self, microbatch: int = 8, nodes: tuple[str, ...] = ("a", "b"), name: str = "j", **fields: Any
    ) -> list[Message]:
        """A new version of the assignment."""
        self.assignment += 1
        share = Share(microbatch=microbatch, local_steps=fields.pop("local_steps", 10), encoding="int8")
        return self.give(
            Assignment(
                job=name,
                version=self.assignment,
                roster_version=1,
                shares=dict.fromkeys(nodes, share),
                average_encoding="int8",
                round_seconds=6.0,
                deadline_seconds=12.0,
                strategy="hybrid",
                reason="",
            )
        )

    def link(
        self, node: str, quality: LinkQuality, previous: LinkQuality | None = LinkQuality.GOOD, version: int | None = None
    ) -> list[Message]:
        """A link has another grade."""
        self.count += 1
        return self.give(
            LinkQualityChanged(
                node=node,
                version=self.count if version is None else version,
                quality=quality,
                previous=previous,
                score=50,
                latency_ms=1,
                jitter_ms=0,
                loss=0,
                trend="stable",
                reason="",
            )
        )

    def lose(self, node: str) -> list[Message]:
        """A node died."""
        return self.give(NodeLost(node=node, silent_seconds=5, reason="silent"))

    def validate(self, loss: float, round: int | None = None, name: str = "j") -> list[Message]:
        """A held-out loss."""
        number = self.round if round is None else round
        return self.give(Validated(job=name, node="a", round=number, loss=loss, seconds=1.0))

    def usage(self, agent: str, cpu_seconds: float) -> list[Message]:
        """An agent's figures."""
        return self.give(AgentUsage(agent=agent, cpu_seconds=cpu_seconds, resident_bytes=1, inputs=1, rejected=0))

    def adaptive(self, **fields: Any) -> None:
        """A job whose warm-up is over, under assignment 1."""
        self.job(**fields)
        self.assign()
        self.rounds(3)

    def reborn(self, *, remembers: bool) -> None:
        """The optimizer's process was restarted."""
        state = None
        if remembers:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.core.state), type=OptimizerState)
        self.core = Optimizer(self.settings, random.Random(2), state)
        self.give(Woken(incarnation=2, resumed=remembers, at=self.now))

    def all(self, kind: type[M]) -> list[M]:
        """Everything of a kind that was said."""
        return [message for message in self.said if isinstance(message, kind)]

    @property
    def tuning(self) -> Tuning:
        """The newest Tuning."""
        return self.all(Tuning)[-1]

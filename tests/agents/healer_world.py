"""Drives a healer in virtual time: its timers, its invariants after every input, and everything it says."""

import random
from typing import Any, TypeVar

import msgspec

from agents.base import CancelTimer, Publish, SetTimer, Timer
from agents.healer import Healer, HealerSettings, HealerState
from agents.inputs import Woken
from schemas.decisions import AgentUsage
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.nodes import WorkFailed
from schemas.training import Average, Contribution, Roster, RoundClosed
from schemas.wire import Message, encode, seal

M = TypeVar("M", bound=Message)
START = 1_000_000.0
NODES = ("a", "b", "c", "d")


class World:
    """One healer, its clock and timers; a job `j` on four nodes runs."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        self.core = Healer(HealerSettings(**settings), random.Random(seed))
        self.now = START
        self.timers: dict[Timer, tuple[float, int]] = {}
        self.said: list[Message] = []
        self.at: list[float] = []
        self.causes: list[str] = []
        self.count = 0
        self.round = 0
        self.versions = 0
        self.give(Woken(incarnation=1, resumed=False, at=START))
        self.job(JobPhase.RUNNING)
        self.roster(*NODES)

    def give(self, event: msgspec.Struct) -> list[Message]:
        """One input; gives what was published for it."""
        self.count += 1
        if isinstance(event, Message) and not event.id:
            seal(event, id=f"somebody:1:{self.count}", cause=event.cause, at=self.now, source=event.source or "somebody")
        published = []
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, SetTimer):
                self.timers[effect.timer] = (effect.at, self.count)
            elif isinstance(effect, CancelTimer):
                self.timers.pop(effect.timer, None)
            elif isinstance(effect, Publish):
                published.append(effect.message)
                self.causes.append(effect.cause)
                assert encode(effect.message)
        self.said += published
        self.at += [self.now] * len(published)
        self.core.check()
        kept = msgspec.msgpack.encode(self.core.state)
        assert msgspec.msgpack.decode(kept, type=HealerState) == self.core.state, "a restart finds it as it was"
        return published

    def run(self, seconds: float) -> None:
        """Time goes by."""
        end = self.now + seconds
        while self.timers:
            timer, (at, _) = min(self.timers.items(), key=lambda item: item[1])
            if at > end:
                break
            del self.timers[timer]
            self.now = max(self.now, at)
            self.give(timer)
        self.now = end

    def pause(self, seconds: float) -> None:
        """Time goes by without the healer."""
        self.now += seconds

    def last(self, kind: type[M]) -> M:
        """What was said last of a kind."""
        return self.all(kind)[-1]

    def all(self, kind: type[M]) -> list[M]:
        """Everything said of a kind."""
        return [message for message in self.said if isinstance(message, kind)]

    # What happens.

    def job(self, state: JobPhase, name: str = "j", **fields: Any) -> None:
        """The desk's word."""
        self.versions += 1
        request = JobRequest(**{"kind": "train", "workload": "w:w", "rounds": 100, "min_nodes": 2} | fields)
        self.give(
            JobState(
                job=name, version=self.versions, state=state, reason="r", round=self.round, rounds=100, request=request,
                submitted_at=START,
            )
        )  # fmt: skip

    def roster(self, *nodes: str, name: str = "j") -> None:
        """The selector's."""
        self.versions += 1
        self.give(
            Roster(job=name, version=self.versions, nodes=nodes, reducers=nodes[:3], quorum=2, excluded=(), reason="r")
        )

    def fails(self, node: str, kind: str = "killed", *, retry: bool = True) -> list[Message]:
        """A job's process does."""
        return self.give(
            WorkFailed(node=node, job="j", attempt=1, kind=kind, code=1, last_lines=(), retry=retry, reason="it died")
        )

    def closes(self, *nodes: str, rounds: int = 1, reducer: str = "a") -> None:
        """Rounds are closed with the contributions of these nodes."""
        for _ in range(rounds):
            self.round += 1
            parts = tuple(
                Contribution(node=node, round=self.round, late=0, samples=1, weight=1 / len(nodes), loss=1.0)
                for node in nodes
            )
            self.give(
                RoundClosed(
                    job="j", round=self.round, term=0, reducer=reducer, next_reducer=reducer, contributions=parts,
                    missing=(),
                    average=Average(key="1-1", size=1, digest="d", holders=()), samples=1, loss=1.0, seconds=1.0,
                    on_time=True, reason="r",
                )
            )  # fmt: skip

    def usage(self, *agents: str) -> None:
        """Agents speak."""
        for agent in agents:
            self.give(AgentUsage(agent=agent, cpu_seconds=1.0, resident_bytes=1, inputs=1, rejected=0))

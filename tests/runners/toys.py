"""A small core with one of everything that a host has to interpret, for tests of hosts and journals."""

import random
from typing import Any

import msgspec

from agents.base import Agent, Asked, Effects, Reply, Timer, on, on_request
from agents.effects import CancelTimer, Probe, SetTimer, StartWork, Store, Work
from agents.inputs import ProbeReturned, Result, Stopping, Woken
from schemas.decisions import ForceNode, NodeJoined, NodeLost, NodeQuarantined, NodeReleased
from schemas.jobs import JobAnswer, JobRequest, JobState
from schemas.nodes import NodeHeartbeat
from schemas.wire import Answer


class Silence(Timer, frozen=True, kw_only=True):
    node: str


class Count(Work, frozen=True, kw_only=True):
    upto: int


class Counted(Result, frozen=True, kw_only=True):
    total: int


class ToyState(msgspec.Struct, kw_only=True):
    beats: dict[str, int] = {}
    log: list[str] = []
    draws: list[float] = []
    last: NodeJoined | None = None
    lives: int = 0


class Toy(Agent[ToyState]):
    """Counts beats, tells of the first of each node and of silences, answers job requests, raises when it is told to."""

    name = "toy"

    def __init__(self, rng: random.Random, state: ToyState | None = None) -> None:
        super().__init__(state or ToyState(), rng)

    @classmethod
    def refusal(cls, field: str, reason: str) -> Answer:
        return JobAnswer(accepted=False, field=field, reason=reason)

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        self.state.lives += 1
        self.state.log.append(f"woken resumed={event.resumed}")
        yield Probe(sequence=self.state.lives, timeout=1.0)

    @on(Stopping)
    def goodbye(self, event: Stopping, now: float) -> Effects:
        yield self.publish(NodeReleased(node="last-words", reason=event.reason))

    @on(NodeHeartbeat)
    def beat(self, event: NodeHeartbeat, now: float) -> Effects:
        seen = self.state.beats.get(event.node, 0)
        self.state.beats[event.node] = seen + 1
        self.state.draws.append(self.rng.random())
        del self.state.draws[:-16]
        if not seen:
            self.state.last = NodeJoined(node=event.node, returned=False, reason="first beat")
            yield self.publish(self.state.last)
        if event.interval == 0:
            yield CancelTimer(timer=Silence(node=event.node))
        else:
            yield self.set_timer(Silence(node=event.node), now + event.interval)

    @on(Silence)
    def silent(self, timer: Silence, now: float) -> Effects:
        self.state.log.append(f"silent {timer.node}")
        yield self.publish(NodeLost(node=timer.node, silent_seconds=1.0, reason="silence"))

    @on(ForceNode)
    def force(self, event: ForceNode, now: float) -> Effects:
        self.state.log.append(f"force {event.node} {event.do}")
        if event.reason == "raise":
            self.state.log.append("half done")
            raise RuntimeError("as you wish")
        for part in range(3):
            reason = f"{event.node} part {part}"
            yield self.publish(NodeQuarantined(node=event.node, seconds=part, failures=part, reason=reason))
        if event.reason == "count":
            yield StartWork(key="count", work=Count(upto=3), reason="asked")
        if event.reason == "store":
            yield Store(table="forced", row={"node": event.node})

    @on(Counted)
    def counted(self, event: Counted, now: float) -> Effects:
        self.state.log.append(f"counted {event.total}")
        yield self.publish(NodeReleased(node="counted", reason=str(event.total)))

    @on(ProbeReturned)
    def probed(self, event: ProbeReturned, now: float) -> None:
        self.state.log.append(f"probe {event.sequence} {event.rtt is not None}")

    @on_request(JobRequest)
    def asked(self, asked: Asked, now: float) -> Effects:
        request: Any = asked.request
        if request.workload == "raise:raise":
            raise RuntimeError("no such luck")
        job = request.id or "j1"
        self.state.log.append(f"job {job}")
        yield self.publish(
            JobState(job=job, version=1, state="queued", reason="new", round=0, rounds=1, request=request, submitted_at=now)
        )
        yield Reply(to=asked.reply_to, answer=JobAnswer(accepted=True, job=job))


def heartbeat(node: str, sequence: int = 1, interval: float = 1.0) -> NodeHeartbeat:
    return NodeHeartbeat(node=node, sequence=sequence, interval=interval)


__all__ = ["Count", "Counted", "SetTimer", "Silence", "Toy", "ToyState", "heartbeat"]

"""A participant of a simulation: what `runners.host` does for a core, without asyncio and in virtual time.

It interprets the same effects by the same rules: a message is acknowledged once what it led to is stored, what is published
on one subject is stored in the order of the decisions, a life that ends is followed by one that redoes what was cut short
under the same names, and a timer that is late waits until what was missed has come in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agents.base import Agent
from agents.effects import (
    CancelTimer,
    Effect,
    Probe,
    Publish,
    Purge,
    Reach,
    Reply,
    SetTimer,
    StartWork,
    StopWork,
    Store,
    Timer,
)
from agents.inputs import Asked, Result, Stopping, Woken
from bus.port import BusError, Interest, Receipt, Start
from bus.simulated_endpoint import Endpoint
from bus.simulated_network import SimulatedNetwork
from bus.simulated_requests import SimulatedRequests
from runners.host import HEAR_FIRST, LATE
from runners.interpreter import WorkRunner
from runners.seen import Seen
from runners.simulation.checking import Looks
from runners.simulation.clocks import SkewedClock
from runners.simulation.lives import Kept, Step, Timed
from runners.simulation.reaching import probe, reach
from runners.steps import identity_of
from runners.undo import seal_effects
from schemas.errors import DecodeError, ShoalError
from schemas.requests import decode_request
from schemas.wire import Delivery, Message, Request, encode, subject_of, wire_of

_TELEMETRY = Delivery.TELEMETRY


class CoreRaised(ShoalError):
    """A core raised on an input, or broke an invariant: which a simulation is there to find. `event`: its cause's id."""

    def __init__(self, source: str, kind: str, at: float, error: Exception, event: str = "") -> None:
        super().__init__(f"{source} raised on a {kind} at {at:.3f} s: {type(error).__name__}: {error}")
        self.source = source
        self.kind = kind
        self.at = at
        self.event = event


@dataclass(frozen=True, kw_only=True)
class Role:
    """What kind of participant this is."""

    source: str
    make: Callable[[], Agent[Any]]
    """A core as it is at a first start."""
    scope: Mapping[str, str] = field(default_factory=dict)
    start: Start = Start.ALL
    lasting: bool = True
    """It has a journal and a durable position; else each life starts afresh."""


class Participant:
    """One core on a simulated network."""

    def __init__(
        self,
        role: Role,
        network: SimulatedNetwork,
        requests: SimulatedRequests,
        endpoint: Endpoint,
        clock: SkewedClock,
        *,
        works: WorkRunner | None = None,
        check: int = 1,
    ) -> None:
        self.role = role
        self.endpoint = endpoint
        self.clock = clock
        self.alive = False
        self.forgot = False
        """Whether this life began with less than the one before it knew."""
        self.inputs = 0
        self.rows = 0
        self.lives = 0
        self.agent = role.make()
        self._looks = Looks(self.agent)
        self._network = network
        self._requests = requests
        self._works = works
        self._check = check
        self._name = role.source.replace("/", "-")
        self._incarnation = 0
        self._sequence = 0
        self._number = 0
        self._timers: dict[Timer, Timed] = {}
        self._seen = Seen()
        self._steps: dict[Step, None] = {}
        self._subjects: dict[str, list[tuple[Publish, str, Step]]] = {}
        self._answers: dict[str, Callable[[bytes], None]] = {}
        self._serving: list[Callable[[], None]] = []
        self._kept: Kept | None = None

    # Lives.

    def begin(self) -> None:
        """Start the process: find the state of the last life, if it is of a kind that keeps it; subscribe; wake."""
        self.alive = True
        self.lives += 1
        self._incarnation = max(self._incarnation + 1, int(self.clock.now(self._network.now) * 1000))
        self._sequence = 0
        kept, self._kept = self._kept, None
        resumed = kept is not None
        if kept is not None:
            self._restore(kept)
        interests = [Interest(kind, self._fixed(kind)) for kind in self.agent.listens_to()]
        durable = self._name if self.role.lasting else None
        self._network.subscribe(self.endpoint, interests, self._receive, durable=durable, start=self.role.start)
        for request in self.agent.answers():
            subject = wire_of(request).filter(**self._fixed(request))
            self._serving.append(self._requests.serve(self.endpoint, subject, self._answerer(request)))
        now = self.clock.now(self._network.now)
        self.take(
            Woken(incarnation=self._incarnation, resumed=resumed, at=now), f"{self.role.source}:{self._incarnation}:0"
        )

    def _fixed(self, kind: type[msgspec.Struct]) -> dict[str, str]:
        """What the scope fixes of a type's subjects."""
        return {field: self.role.scope[field] for field in wire_of(kind).fields if field in self.role.scope}

    def stop(self, reason: str) -> None:
        """End the process as it should be: last words, then silence."""
        if self.alive:
            self.take(Stopping(reason=reason))
            self._network.at(self._network.now + self.endpoint.latency * 2, self._gone, self.endpoint.epoch)
            self.alive = False

    def kill(self, keep: str = "all") -> None:
        """SIGKILL. `keep`: what the next life finds of the state: `all`, `stale` (the last `remember`) or `nothing`."""
        if not self.alive:
            return
        self.forgot = keep != "all"
        if self.role.lasting and keep == "all":
            self.remember()
        elif not self.role.lasting or keep == "nothing" or self._kept is None:
            self._kept = None
            self._network.readers.forget(self._name)
        self.alive = False
        self._end()

    def remember(self) -> None:
        """Note the state as a journal would, for `kill(keep="stale")`."""
        self._kept = Kept(
            state=msgspec.msgpack.encode(self.agent.state),
            random=self.agent.rng.getstate(),
            timers=list(self._timers.values()),
            seen=self._seen.ids(),
            unfinished=[list(step.effects) for step in self._steps],
        )

    @property
    def waiting(self) -> int:
        """Effects that are not stored yet."""
        return sum(step.waiting for step in self._steps)

    @property
    def at_rest(self) -> bool:
        """Whether all that was decided is stored."""
        return not self._steps

    def _gone(self, epoch: int) -> None:
        if self.endpoint.epoch == epoch and not self.alive:
            self._end()

    def _end(self) -> None:
        self._network.cut_off(self.endpoint, durable=self.role.lasting)
        for ends in self._serving:
            ends()
        self._serving.clear()
        self._answers.clear()
        self._timers.clear()
        self._steps.clear()
        self._subjects.clear()
        self._seen = Seen()
        self.agent = self.role.make()
        self._looks = Looks(self.agent)

    def _restore(self, kept: Kept) -> None:
        self.agent.state = msgspec.msgpack.decode(kept.state, type=type(self.agent.state))
        self.agent.rng.setstate(kept.random)
        self._seen.restore(kept.seen)
        now = self.clock.now(self._network.now)
        for timer, at, cause in sorted(kept.timers, key=lambda entry: entry[1]):
            self._set(timer, at if at > now - LATE else now + HEAR_FIRST, cause)
        for effects in kept.unfinished:
            step = Step(None)
            for effect, name in effects:
                self._store(effect, name, step)
            if step.waiting:
                self._steps[step] = None

    # Coming in.

    def take(self, event: msgspec.Struct, cause: str = "", receipt: Receipt | None = None) -> None:
        """Give one input to the core and carry out what it decides."""
        self.inputs += 1
        self._number += 1
        clock, agent = self.clock, self.agent
        now = clock.base + self._network.now * clock.rate
        try:
            effects = agent.handle(event, now, cause)
            if self._check and (self.inputs % self._check == 0 or any(type(each) is not SetTimer for each in effects)):
                self._looks.after(event, effects, cause)
        except Exception as error:
            raise CoreRaised(self.role.source, type(event).__name__, self._network.now, error, cause) from error
        if effects:
            self._carry_out(event, cause, receipt, effects, now)
        elif receipt is not None:
            receipt.ack()

    def _receive(self, message: Message, receipt: Receipt | None) -> None:
        if not self.alive:
            return
        name = message.id
        if receipt is None or self._seen.add(name):
            self.take(message, name, receipt)
        else:
            receipt.ack()

    def post(self, result: Result, cause: str = "") -> None:
        """Bring a result in; one that comes while the process stands still waits until it goes on."""
        if not self.alive:
            return
        if self.endpoint.paused > self._network.now:
            self._network.at(self.endpoint.paused, self._posted, (self.endpoint.epoch, result, cause))
        else:
            self.take(result, cause)

    def _posted(self, what: tuple[int, Result, str]) -> None:
        epoch, result, cause = what
        if epoch == self.endpoint.epoch:
            self.post(result, cause)

    def _answerer(self, kind: type[Request]) -> Callable[[bytes, Callable[[bytes], None]], None]:
        def answer(body: bytes, reply: Callable[[bytes], None]) -> None:
            if not self.alive:
                return
            try:
                request = decode_request(kind, body)
            except DecodeError as error:
                reply(encode(self.agent.refusal(error.field, error.why)))
                return
            to = f"{self.role.source}:{self._incarnation}:ask-{self._number + 1}"
            self._answers[to] = reply
            self.take(Asked(reply_to=to, request=request, at=self.clock.now(self._network.now)))

        return answer

    def _fire(self, entry: Timed) -> None:
        timer = entry[0]
        if self._timers.get(timer) is not entry or not self.alive:
            return  # it was set anew, cancelled, or is an earlier life's
        paused, now = self.endpoint.paused, self._network.now
        if paused - now > LATE:
            self._network.at(paused + HEAR_FIRST, self._fire_late, entry)
        elif paused > now:
            self._network.at(paused, self._fire, entry)
        else:
            del self._timers[timer]
            self.take(timer, entry[2])

    def _fire_late(self, entry: Timed) -> None:
        """What was missed has come in."""
        if self.endpoint.paused > self._network.now:
            self._network.at(self.endpoint.paused, self._fire, entry)
        else:
            self._fire(entry)

    # Going out.

    def _carry_out(
        self, event: msgspec.Struct, cause: str, receipt: Receipt | None, effects: list[Effect], now: float
    ) -> None:
        self._sequence = seal_effects(effects, self.role.source, self._incarnation, self._sequence, now)
        step: Step | None = None
        identity = ""
        for ordinal, effect in enumerate(effects):
            kind = type(effect)
            if kind is Publish:
                message = effect.message  # type: ignore[union-attr]
                wire = wire_of(type(message))
                if wire.delivery is _TELEMETRY:
                    self._network.tell(self.endpoint, message, wire)
                    continue
                step = step or Step(receipt)
                identity = identity or identity_of(event, cause, self._incarnation, self._number, self.role.lasting)
                name = f"{self.role.source}:{identity}:{ordinal}"
                step.effects.append((effect, name))  # type: ignore[arg-type]
                self._store(effect, name, step)  # type: ignore[arg-type]
            elif kind is SetTimer:
                self._set(effect.timer, effect.at, effect.cause)  # type: ignore[union-attr]
            elif kind is CancelTimer:
                self._timers.pop(effect.timer, None)  # type: ignore[union-attr]
            elif kind is Reply:
                step = step or Step(receipt)
                step.replies.append(effect)  # type: ignore[arg-type]
            else:
                self._other(effect, cause)
        if step is None:
            if receipt is not None:
                receipt.ack()
        elif step.waiting:
            self._steps[step] = None
        else:
            self._finish(step)

    def _finish(self, step: Step) -> None:
        for reply in step.replies:
            answer = self._answers.pop(reply.to, None)
            if answer is not None:
                answer(encode(reply.answer))
        if step.receipt is not None:
            step.receipt.ack()

    def _set(self, timer: Timer, at: float, cause: str) -> None:
        entry = self._timers[timer] = (timer, at, cause)
        clock, network = self.clock, self._network
        when, now = (at - clock.base) / clock.rate, network.now
        network.at(when if when > now else now, self._fire, entry)

    def _store(self, effect: Publish, name: str, step: Step) -> None:
        """Publish to a stream, after what was published on the same subject before."""
        step.waiting += 1
        subject = subject_of(effect.message)
        queue = self._subjects.get(subject)
        if queue is not None:
            queue.append((effect, name, step))
        else:
            self._subjects[subject] = []
            self._send(subject, effect, name, step)

    def _send(self, subject: str, effect: Publish, name: str, step: Step) -> None:
        def done(error: BusError | None) -> None:
            queue = self._subjects[subject]
            if queue:
                self._send(subject, *queue.pop(0))
            else:
                del self._subjects[subject]
            step.waiting -= 1
            if not step.waiting:
                del self._steps[step]
                self._finish(step)

        self._network.publish(self.endpoint, effect.message, name=name, first=effect.first, done=done)

    def _other(self, effect: Effect, cause: str) -> None:
        if isinstance(effect, Probe):
            probe(self._network, self.endpoint, effect, lambda result: self.post(result, cause))
        elif isinstance(effect, Reach):
            reach(self._network, self._requests, self.endpoint, effect, lambda result: self.post(result, cause))
        elif isinstance(effect, Store):
            self.rows += 1
        elif isinstance(effect, Purge):
            self._network.readers.purge(effect.subjects)
        elif self._works is not None:
            if isinstance(effect, StartWork):
                self._works.start(effect.key, effect.work, lambda result: self.post(result, cause))
            elif isinstance(effect, StopWork):
                self._works.stop(effect.key, effect.reason)

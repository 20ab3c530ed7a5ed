"""The base of all agents: a pure state machine, events in, effects out.

A core never looks at a clock and never does I/O. `now` is an argument (seconds, monotonic within one life, anchored to
the epoch at start), random numbers come from an injected generator, results of effects come back as inputs. So the same
inputs give the same effects, which is what makes simulation, replay and standbys possible.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

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
from agents.inputs import Asked, Result
from schemas.errors import ShoalError
from schemas.requests import Refusal
from schemas.wire import Answer, Message, Request

Effects = Iterator[Effect]
S = TypeVar("S", bound=msgspec.Struct)
I = TypeVar("I", bound=msgspec.Struct)  # noqa: E741 - I for input
A = TypeVar("A")
_MARK = "_handles"

__all__ = [
    "Agent",
    "Asked",
    "BrokenInvariant",
    "CancelTimer",
    "Effect",
    "Effects",
    "Probe",
    "Publish",
    "Purge",
    "Reach",
    "Reply",
    "Result",
    "SetTimer",
    "StartWork",
    "StopWork",
    "Store",
    "Timer",
    "on",
    "on_request",
]


class BrokenInvariant(ShoalError):
    """A core's state is not what it must always be; `check` raises it. Attributes: `agent`, `what`."""

    def __init__(self, agent: str, what: str) -> None:
        super().__init__(f"{agent}: broken invariant: {what}; please report it with the agent's journal")
        self.agent = agent
        self.what = what


def on(kind: type[I]) -> Callable[[Callable[[A, I, float], Iterable[Effect] | None]], Any]:
    """Marks the handler of one kind of input: a message, a `Timer`, a `Result`."""

    def mark(handler: Callable[[A, I, float], Iterable[Effect] | None]) -> Any:
        setattr(handler, _MARK, kind)
        return handler

    return mark


def on_request(kind: type[Request]) -> Callable[[Callable[[A, Asked, float], Iterable[Effect] | None]], Any]:
    """Marks the handler of a client's request; it gets the `Asked` with the request and where to answer."""

    def mark(handler: Callable[[A, Asked, float], Iterable[Effect] | None]) -> Any:
        setattr(handler, _MARK, kind)
        return handler

    return mark


class Agent(Generic[S]):
    """A decision core.

    Subclasses set `name`, keep everything they know in `state` (a struct that serialises), and mark handlers with `on`
    and `on_request`. Handlers are generators of effects, or return None.
    """

    name: ClassVar[str]
    handlers: ClassVar[dict[type, str]] = {}
    state: S

    def __init__(self, state: S, rng: random.Random) -> None:
        self.state = state
        self.rng = rng
        self._cause = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        table: dict[type, str] = {}
        for base in reversed(cls.__mro__):
            for attribute, value in vars(base).items():
                kind = getattr(value, _MARK, None)
                if kind is not None:
                    table[kind] = attribute
        cls.handlers = table

    @classmethod
    def listens_to(cls) -> tuple[type[Message], ...]:
        """The message types that this core handles, from which its host subscribes."""
        return tuple(kind for kind in cls.handlers if issubclass(kind, Message))

    @classmethod
    def answers(cls) -> tuple[type[Request], ...]:
        """The requests that this core answers."""
        return tuple(kind for kind in cls.handlers if issubclass(kind, Request))

    @classmethod
    def refusal(cls, field: str, reason: str) -> Answer:
        """The answer to a request that didn't decode, or whose handler raised: the host asks for it and sends it.

        A core whose clients expect an answer type of their own overrides this.
        """
        return Refusal(accepted=False, field=field, reason=reason)

    def handle(self, event: msgspec.Struct, now: float, cause: str = "") -> list[Effect]:
        """Take one input in; give the effects it leads to.

        `cause` is the id of the event behind the input: for a message its own id (the default), for a timer or a result
        the cause of the effect that asked for it.
        """
        handler = self.handlers.get(type(event))
        if handler is None:
            handler = self.handlers.get(type(event.request)) if isinstance(event, Asked) else None
            if handler is None:
                return []
        self._cause = cause or (event.id if isinstance(event, Message) else "")
        effects: Iterable[Effect] | None = getattr(self, handler)(event, now)
        return list(effects) if effects is not None else []

    def check(self) -> None:
        """Raises `BrokenInvariant` where the state is not what it must be; tests call it after every event."""

    def check_after(self, event: msgspec.Struct) -> None:
        """`check`, without what an input that was just handled can't have touched. Raises `BrokenInvariant`.

        All of it, unless a core knows better: one that keeps many nodes spares simulations of large fleets a look at all of
        them after a word of one.
        """
        self.check()

    # What handlers yield. Each carries the cause of the input at hand.

    def publish(self, message: Message, *, first: bool = False) -> Publish:
        """A message, caused by the input at hand."""
        return Publish(message=message, cause=self._cause, first=first)

    def set_timer(self, timer: Timer, at: float) -> SetTimer:
        """`timer` comes in at time `at`; it passes on the cause of the input at hand."""
        return SetTimer(timer=timer, at=at, cause=self._cause)

    def require(self, condition: bool, what: str) -> None:
        """For `check`: raises `BrokenInvariant` unless the condition holds."""
        if not condition:
            raise BrokenInvariant(self.name, what)

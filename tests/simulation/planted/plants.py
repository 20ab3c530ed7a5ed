"""Bugs to be found: one of each kind that such systems have, planted one at a time."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from agents.base import Effects, Publish, on
from agents.node_selector import NodeSelector, NodeSelectorSettings
from agents.node_selector.state import NodeSelectorState
from agents.reducer import Reducer
from agents.trainer import Trainer
from agents.trainer import works as training
from runners.simulation.cores import AGENTS
from runners.simulation.job_process import JobProcess
from schemas.nodes import NodeHeartbeat
from schemas.training import Assignment, RoundClosed, RoundOpened
from schemas.wire import Message


def lost_update(patch: pytest.MonkeyPatch) -> None:
    """A node whose fetch of an average failed takes it for applied at the next attempt."""
    apply, fetch = JobProcess._apply_after, JobProcess._get_average
    failed: set[tuple[int, int]] = set()

    def forgetful_fetch(self: JobProcess, work: Any, finish: Callable[[float, Any], None]) -> None:
        def noting(seconds: float, result: Any) -> None:
            if isinstance(result, training.FetchFailed):
                failed.add((id(self), work.round))
            finish(seconds, result)

        fetch(self, work, noting)

    def skipping(self: JobProcess, seconds: float, work: training.ApplyAverage, finish: Callable[..., None]) -> None:
        before = self.digest

        def without(seconds_: float, result: Any) -> None:
            if isinstance(result, training.Applied) and (id(self), work.round) in failed:
                self.digest = before
                self.fleet.applied(self)
            finish(seconds_, result)

        apply(self, seconds, work, without)

    patch.setattr(JobProcess, "_get_average", forgetful_fetch)
    patch.setattr(JobProcess, "_apply_after", skipping)


def double_count(patch: pytest.MonkeyPatch) -> None:
    """A reducer does not remember what was counted: a contribution that is offered again counts again."""
    patch.setattr(Reducer, "_count", lambda self, node, round_, offer: None)


def stale_assignment(patch: pytest.MonkeyPatch) -> None:
    """A trainer takes whichever assignment comes last, not the newest."""
    follow = Trainer.follow_assignment

    def follow_any(self: Trainer, event: Assignment, now: float) -> Effects:
        self.state.assignment_version = -1
        yield from follow(self, event, now)

    patch.setattr(Trainer, "follow_assignment", on(Assignment)(follow_any))


def split_brain(patch: pytest.MonkeyPatch) -> None:
    """A reducer that was replaced goes on, and closes its round without asking whether somebody else has closed it."""
    publish, see_opening = Reducer.publish, Reducer.see_opening

    def heedless(self: Reducer, message: Message, *, first: bool = False) -> Publish:
        return publish(self, message, first=first and not isinstance(message, RoundClosed))

    def deaf(self: Reducer, event: RoundOpened, now: float) -> Effects:
        if not self.state.opened:
            yield from see_opening(self, event, now)

    patch.setattr(Reducer, "publish", heedless)
    patch.setattr(Reducer, "see_opening", deaf)


class HoardingState(NodeSelectorState, kw_only=True):
    """The state of a selector with a queue that nothing bounds."""

    told: list[str] = msgspec.field(default_factory=list)


class Hoarder(NodeSelector):
    """Queues every heartbeat for a reader who never comes."""

    state: HoardingState

    def __init__(self, settings: NodeSelectorSettings, rng: random.Random) -> None:
        super().__init__(settings, rng, HoardingState())

    @on(NodeHeartbeat)
    def hear(self, event: NodeHeartbeat, now: float) -> Effects:
        """Hear, and hoard."""
        self.state.told.append(msgspec.json.encode(event).decode())
        yield from super().hear(event, now)


def unbounded_queue(patch: pytest.MonkeyPatch) -> None:
    """An agent keeps every word it hears."""
    patch.setitem(AGENTS, "node_selector", (__name__, Hoarder.__name__, NodeSelectorSettings.__name__))


PLANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    plant.__name__: plant for plant in (lost_update, double_count, stale_assignment, split_brain, unbounded_queue)
}

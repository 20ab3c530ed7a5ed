"""A simulated agent's inputs on file, as a real agent's process keeps them: for replays of runs that were simulated."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents.effects import Timer
from runners.journal import Journal
from runners.journaled import JournaledCore
from runners.simulation.cores import agent_factory
from runners.simulation.world import World
from runners.steps import Input


def journal(world: World, name: str, store: Path, settings: Mapping[str, Any] | None = None) -> Callable[[], None]:
    """Keep what an agent takes in from now on, in `store` as `shoal up` has it; gives what ends that, with a snapshot.

    Begin before the world does. `settings` are the agent's, as the world was given them. A second core of the agent handles
    the inputs beside the simulated one.
    """
    participant = world.fleet.agents[name]
    core = JournaledCore(agent_factory(name, world.seed, settings or {})(), name, 1, Journal(store / "agents" / name))
    core.recover(participant.clock.now(0.0))
    simulated = participant.take

    def take(event: msgspec.Struct, cause: str = "", receipt: Any = None) -> None:
        now = participant.clock.now(world.network.now)
        if isinstance(event, Timer):
            core.timers.cancel(event)
        step = core.take(Input(event, cause), now)
        assert step is not None, "an input without an id is never a duplicate"
        core.finished(step)
        simulated(event, cause, receipt)

    participant.take = take  # type: ignore[method-assign]
    return lambda: core.close(participant.clock.now(world.network.now))

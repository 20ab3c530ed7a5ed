"""What must come about once nothing goes wrong any more."""

from typing import TYPE_CHECKING

from agents.node_selector import NodeSelectorState
from runners.simulation.steadiness import LEARNT
from schemas.errors import ShoalError
from schemas.jobs import JobPhase
from schemas.training import Assignment, Roster

if TYPE_CHECKING:
    from runners.simulation.world import World

# Virtual seconds for what was under way to end, with every back-off and quarantine of a minute or two run out.
SETTLE = 900.0
# Virtual seconds for a job of `ROUNDS` rounds, of at most so many steps, among slow machines.
JOB = 1800.0
ROUNDS, STEPS = 15, 200
# Versions of a roster or an assignment for each round of a quiet job, once its nodes are measured: more is oscillation.
CHANGES_A_ROUND = 2.5


class NotLive(ShoalError):
    """Something that should have come about has not. Attribute: `what`."""

    def __init__(self, what: str, at: float) -> None:
        super().__init__(f"at {at:.0f} s, with all faults over: {what}")
        self.what = what
        self.at = at


class Liveness:
    """Run after faults are over."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def check(self) -> None:
        """Raises `NotLive`."""
        world = self._world
        world.client.stop()
        everybody = [*world.fleet.agents.values(), *world.fleet.nodes.values()]
        self._require(world.until(lambda: all(each.alive for each in everybody), SETTLE), "somebody is still down")
        ended = world.until(lambda: not world.client.open, 2 * JOB, 10.0)
        self._require(ended, f"jobs are still open: {', '.join(world.client.open)}")
        self._require(world.until(self._resting, SETTLE), "effects are under way for good")
        if "node_selector" in world.fleet.agents:
            known = world.until(lambda: not self._unknown(), SETTLE, 5.0)
            self._require(known, f"nodes are not taken for alive: {', '.join(self._unknown())}")
        self._one_more_job()

    def _one_more_job(self) -> None:
        """A job on most of the fleet completes, and its documents don't oscillate."""
        world = self._world
        enough = min(world.request.max_nodes or 1, len(world.fleet.machines) // 2)
        steps = min(STEPS, world.request.local_steps)
        job = world.client.submit(rounds=ROUNDS, local_steps=steps, min_nodes=max(1, enough))
        done = world.until(lambda: job in world.client.states and world.client.states[job].state.ended, JOB, 5.0)
        state = world.client.states.get(job)
        refused = "; ".join(world.client.refused) or "nobody speaks of it"
        said = f"{state.state.value}: {state.reason}" if state is not None else refused
        self._require(done and state is not None and state.state is JobPhase.COMPLETED, f"a last job: {said}")
        for kind in (Roster, Assignment):
            changes, quiet = world.steadiness.changes(kind, job), ROUNDS - LEARNT
            steady = changes <= CHANGES_A_ROUND * quiet
            self._require(steady, f"{changes} versions of the {kind.__name__} in {quiet} quiet rounds")

    def _resting(self) -> bool:
        return all(each.at_rest for each in self._world.fleet.participants())

    def _unknown(self) -> list[str]:
        state = self._world.fleet.agents["node_selector"].agent.state
        assert isinstance(state, NodeSelectorState)
        alive = {name for name, record in state.nodes.items() if record.alive}
        return sorted(set(self._world.fleet.machines) - alive)

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise NotLive(what, self._world.network.now)

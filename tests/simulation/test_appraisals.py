"""What the appraiser says of a node is what happens without it: the same job, run again without."""

import random

import msgspec
import pytest
from fleets import even_machine, listen

from bus.simulated_faults import NONE, Faults
from runners.simulation import World
from runners.simulation.machines import Machine
from runners.simulation.world import REQUEST
from schemas.appraisal import NodesAppraised
from schemas.training import RoundClosed, RoundOpened

ROUNDS = 30
SPEEDS = {"n001": 0.003, "n002": 0.003, "n003": 0.003, "n004": 0.009}
"""Seconds a sample."""


class Moody(Machine):
    """Now and then it does something else for a while."""

    def compute_seconds(self, steps: int, microbatch: int) -> float:
        return super().compute_seconds(steps, microbatch) * (6.0 if self.rng.random() < 0.5 else 1.0)


def build(name: str, rng: random.Random, faults: Faults) -> Machine:
    made = even_machine(name, SPEEDS.get(name, 0.003))
    if name == "moody":
        return Moody(name, random.Random(3), made.clock, made.round_trip, 0.0, made.rate, made.sample_seconds)
    return made


def run(names: list[str], without: str = "") -> tuple[float, NodesAppraised]:
    """Useful samples a second of one job, and what was said of its nodes in the end."""
    least = len(names) - bool(without)
    exclude = (without,) if without else ()
    request = msgspec.structs.replace(REQUEST, rounds=ROUNDS, min_nodes=least, exclude=exclude)
    world = World(1, names, 1.0, NONE, machine=build, request=request, beat=5.0, check=1)
    said, rounds = listen(world, NodesAppraised), listen(world, RoundOpened, RoundClosed)
    world.begin()
    assert world.until(lambda: any(one.round == ROUNDS for one in said), 3600.0)
    mine = [message for message in rounds if message.job == said[0].job]
    closed = [message for message in mine if isinstance(message, RoundClosed) and message.round > 1]
    first = min(message.at for message in mine if isinstance(message, RoundOpened) and message.round == 2)
    useful = sum(part.samples / (1 + part.late) for one in closed for part in one.contributions)
    return useful / (closed[-1].at - first), next(one for one in said if one.round == ROUNDS)


@pytest.mark.parametrize(
    ("names", "node", "verdict"),
    [(["n001", "n002", "n003", "n004"], "n004", "helps"), (["n001", "n002", "n003", "moody"], "moody", "hinders")],
    ids=["a slow node does its part", "a moody one keeps all waiting"],
)
def test_without_a_node_a_job_is_as_fast_as_predicted(names: list[str], node: str, verdict: str) -> None:
    speed, said = run(names)
    other, _ = run(names, without=node)
    (value,) = [one for one in said.nodes if one.node == node]
    assert value.verdict == verdict
    assert said.samples_per_second == pytest.approx(speed, rel=0.03)
    assert value.without == pytest.approx(other / speed - 1, abs=0.08)

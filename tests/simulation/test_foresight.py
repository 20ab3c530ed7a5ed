"""Links that change every 20 s: acting on forecasts must not lose against reacting."""

import msgspec
import pytest
from fleets import NONE, even_machine, listen

from runners.simulation import World
from runners.simulation.machines import Machine
from runners.simulation.world import REQUEST
from schemas.decisions import ForesightJudged
from schemas.network import LinkForecast
from schemas.training import RoundClosed, Tuning

NAMES = [f"n{n:03d}" for n in range(4)]
GOOD, POOR = (0.02, 0.005, 20e6), (0.2, 0.05, 1e6)
SETTLE, MEASURED = 420.0, 300.0
NOISE = 0.03  # two runs of one policy that differ in nothing but a message or two lie as far apart


def changing(world: World, name: str, every: float) -> None:
    """One node's link is good and poor by turns."""
    machine, bad = world.fleet.machines[name], False

    def turn(_: object) -> None:
        nonlocal bad
        bad = not bad
        machine.relink(*(POOR if bad else GOOD))
        world.network.at(world.network.now + every, turn)

    world.network.at(60.0, turn)


def useful(policy: str, seed: int) -> tuple[float, dict[type, list[object]]]:
    """Samples a second that counted, late ones less, once forecasts have had time to be earned; and what was said."""

    def machine(name: str, rng: object, given: object) -> Machine:
        return even_machine(name, 0.002)

    request = msgspec.structs.replace(REQUEST, rounds=10_000, adaptation=policy, checkpoint_every=0, validate_every=0)
    world = World(seed, NAMES, 1.0, NONE, machine=machine, request=request, check=50, trace=False)
    heard = {kind: listen(world, kind) for kind in (RoundClosed, Tuning, LinkForecast, ForesightJudged)}
    changing(world, NAMES[-1], 20.0)
    world.begin()
    world.advance(SETTLE)
    before = len(heard[RoundClosed])
    world.advance(MEASURED)
    parts = [part for closed in heard[RoundClosed][before:] for part in closed.contributions]
    return sum(part.samples / (1 + part.late) for part in parts) / MEASURED, heard


@pytest.mark.search
@pytest.mark.timeout(240)
def test_proactive_loses_nothing_against_reactive_on_links_that_change_and_says_itself_which_of_them_did_better() -> None:
    ratios, regrets = [], []
    for seed in (1, 2):
        reactive, said = useful("reactive", seed)
        assert not any(tuning.foreseen or tuning.ahead for tuning in said[Tuning])  # type: ignore[attr-defined]
        proactive, heard = useful("proactive", seed)
        assert heard[LinkForecast], "the pattern wasn't found"
        assert any(tuning.foreseen for tuning in heard[Tuning])  # type: ignore[attr-defined]
        judged = heard[ForesightJudged]
        assert {each.acting for each in judged} == {True, False}, "there was a turn of each"  # type: ignore[attr-defined]
        ratios.append(proactive / reactive)
        regrets.append(judged[-1].regret_seconds)  # type: ignore[attr-defined]
    assert min(ratios) >= 1 - NOISE, ratios
    assert (sum(ratios) > len(ratios)) == (sum(regrets) < 0), (ratios, regrets)

"""No split brain: whatever stands still, is cut off or dies, what is published is what one single agent would have said."""

import asyncio

import pytest
from standby_world import DECISIONS, SOURCE, StandbyWorld
from virtual_loop import passing, run

SECONDS = 120.0  # virtual, of work and trouble
CALM = 60.0  # virtual, in which everything comes right: every pause and every partition is over long before


async def lived(seed: int) -> StandbyWorld:
    """A world after its troubles; what was published is compared with what its log leads to."""
    world = StandbyWorld(seed)
    await asyncio.gather(world.work(SECONDS), world.trouble(SECONDS))
    await passing(CALM)
    await world.end()
    stored, decided = await world.stored(), world.decided()
    ids = [message.id for message in stored]
    assert len(ids) == len(set(ids)), "a decision took effect twice"
    for message in stored:
        assert message.id in decided, f"{message} was never agreed on"
        assert message == decided[message.id]
    missing = [message for id, message in decided.items() if id not in set(ids)]
    assert not missing, "what was agreed on never took effect"
    forced = sum(type(message) is DECISIONS[2] for message in stored)
    assert forced == 3 * (world.told - world.beats), "an accepted message was lost, or counted twice"
    return world


@pytest.mark.parametrize("seed", [1])
def test_what_is_published_is_what_one_agent_would_have_said(seed: int) -> None:
    world = run(lived(seed))
    assert world.leaders > 3, "nobody ever took over: the faults are too tame to show anything"


@pytest.mark.search
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_no_seed_splits_a_brain(first: int) -> None:
    fenced = 0
    for seed in range(first, first + 10):
        fenced += run(lived(seed)).fenced
    assert fenced > 0, f"no leader of {SOURCE} was ever replaced while it stood still"

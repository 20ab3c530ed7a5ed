"""What must change with the input, and how, without knowing the right answer."""

import msgspec
from fleets import listen, small_world

from bus.simulated_faults import Faults
from schemas.training import Assignment, Roster, RoundClosed

SPEEDS = [0.002, 0.004, 0.003, 0.008, 0.006, 0.016]


def decisions(names: list[str]) -> bytes:
    """All that a fleet of these names decided in some minutes, as text."""
    world = small_world(names, SPEEDS, faults=Faults(drop=0.01, crashes_per_hour=15.0), seed=5)
    heard = listen(world, Roster, Assignment, RoundClosed)
    world.begin()
    world.advance(260.0)
    assert sum(isinstance(each, RoundClosed) for each in heard) > 8
    return msgspec.json.encode([msgspec.structs.replace(each, at=0.0, id="", cause="") for each in heard])


def test_renaming_nodes_renames_decisions() -> None:
    before, after = [f"a-{n:03d}" for n in range(6)], [f"z-{n:03d}" for n in range(6)]
    said, renamed = decisions(before).decode(), decisions(after).decode()
    for old, new in zip(before, after, strict=True):
        said = said.replace(old, new)
    # Hashes of what nodes made differ with their names, as they should.
    strip = lambda text: [  # noqa: E731
        {key: value for key, value in each.items() if key != "average"} for each in msgspec.json.decode(text)
    ]
    assert strip(said) == strip(renamed)


def test_a_slower_node_never_gets_a_larger_share() -> None:
    names = [f"n{n:03d}" for n in range(6)]
    seconds = dict(zip(names, SPEEDS, strict=True))
    world = small_world(names, SPEEDS)
    assignments, closed = listen(world, Assignment), listen(world, RoundClosed)
    world.begin()
    assert world.until(lambda: len(closed) >= 15, 1800.0)
    last = assignments[-1].shares
    assert set(last) == set(names)
    for slow in names:
        for fast in names:
            if seconds[slow] > 1.2 * seconds[fast] and last[slow].every == last[fast].every:
                samples = [last[node].microbatch * last[node].local_steps for node in (slow, fast)]
                assert samples[0] <= samples[1], f"{slow} gets more than {fast}, which is faster"

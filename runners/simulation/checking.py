"""What is looked at after an input of a core: its invariants, and whether all that came of it names its cause."""

from typing import Any

import msgspec

from agents.base import Agent
from agents.effects import Effect, Publish

# Inputs between looks at all that a core knows: what its `check_after` leaves out then costs little, and is seen soon.
WHOLE = 64


def look(agent: Agent[Any], inputs: int, event: msgspec.Struct, effects: list[Effect], cause: str) -> None:
    """Look at a core after an input, its `inputs`-th: at what that may have touched, and now and then at all of it.

    Raises:
        BrokenInvariant: its state is not what it must be.
        AssertionError: it published something without the input's cause.
    """
    if inputs % WHOLE:
        agent.check_after(event)
    else:
        agent.check()
    if not cause:
        return
    for effect in effects:
        if type(effect) is Publish and not effect.cause:
            raise AssertionError(f"a {type(effect.message).__name__} without its cause, {cause}")

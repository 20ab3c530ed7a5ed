"""What is looked at after an input of a core: its invariants, what it goes by, and the causes of what it says."""

from typing import Any

import msgspec

from agents.base import Agent
from agents.effects import Effect, Publish
from schemas.training import Assignment, Roster

# Inputs between looks at all that a core knows: what its `check_after` leaves out then costs little, and is seen soon.
WHOLE = 64


class Looks:
    """The looks at one life of a core."""

    def __init__(self, agent: Agent[Any]) -> None:
        self._agent = agent
        self._inputs = 0
        self._held: dict[str, int] = {}

    def after(self, event: msgspec.Struct, effects: list[Effect], cause: str) -> None:
        """Look at the core after an input: at what that may have touched, and now and then at all of it.

        Raises:
            BrokenInvariant: its state is not what it must be.
            AssertionError: it published something without the input's cause, or holds an older document than before.
        """
        self._inputs += 1
        if self._inputs % WHOLE:
            self._agent.check_after(event)
        else:
            self._agent.check()
        kind = type(event)
        if kind is Assignment:
            self._rising("assignment", getattr(self._agent.state, "assignment_version", None))
        elif kind is Roster:
            roster = getattr(self._agent.state, "roster", None)
            self._rising("roster", roster.version if isinstance(roster, Roster) else None)
        if cause:
            for effect in effects:
                if type(effect) is Publish and not effect.cause:
                    raise AssertionError(f"a {type(effect.message).__name__} without its cause, {cause}")

    def _rising(self, what: str, version: int | None) -> None:
        """A standing document that a core of one job goes by is never an older one than before."""
        if version is None:
            return
        before = self._held.get(what, version)
        if version < before:
            raise AssertionError(f"it goes by the {what} of version {version}, and had {before}")
        self._held[what] = version

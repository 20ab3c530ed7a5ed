"""The way back from an input that failed: how often a state is copied goes by its size, and the way back is exact."""

import random

import msgspec
import pytest

from agents.base import Agent, on
from agents.effects import Timer
from runners.undo import BYTES_EACH, EVERY, MOST, Undo


class Word(Timer, frozen=True, kw_only=True):
    """Something to remember."""

    text: str


class Memory(msgspec.Struct):
    """All words, and something large."""

    words: list[str] = []
    ballast: bytes = b""


class Rememberer(Agent[Memory]):
    """Remembers words."""

    name = "rememberer"

    @on(Word)
    def remember(self, event: Word, now: float) -> None:
        """One more."""
        self.state.words.append(event.text)


@pytest.mark.parametrize(("size", "every"), [(0, EVERY), (600 * BYTES_EACH, 600), (100 * MOST * BYTES_EACH, MOST)])
def test_a_large_state_is_copied_seldom_and_the_way_back_is_the_same(size: int, every: int) -> None:
    agent = Rememberer(Memory(ballast=bytes(min(size, 2 * MOST * BYTES_EACH))), random.Random(1))
    undo = Undo(agent, "rememberer")
    words = [Word(text=str(number)) for number in range(every + 3)]
    copies = {id(undo._state)}
    for word in words:
        agent.handle(word, 1.0)
        undo.remember(word, 1.0, "", 1, 0)
        copies.add(id(undo._state))
    assert len(copies) == 2, "one at the beginning, one after so many inputs"
    agent.state.words.clear()
    undo.restore()
    assert agent.state.words == [word.text for word in words]

"""What a simulated participant has in hand and keeps: inputs under way, timers, and what a journal gives back."""

from dataclasses import dataclass
from typing import Any

from agents.effects import Publish, Reply, Timer
from bus.port import Receipt

Timed = tuple[Timer, float, str]
"""A timer that is set: when it is due by the participant's clock, and the cause that it passes on."""


class Step:
    """An input whose effects are under way."""

    __slots__ = ("effects", "receipt", "replies", "waiting")

    def __init__(self, receipt: Receipt | None) -> None:
        self.receipt = receipt
        self.waiting = 0
        self.replies: list[Reply] = []
        self.effects: list[tuple[Publish, str]] = []


@dataclass
class Kept:
    """What a journal would give back."""

    state: bytes
    random: Any
    timers: list[Timed]
    seen: list[str]
    unfinished: list[list[tuple[Publish, str]]]

"""Takes a core back to before an input that it raised on.

A copy of the state before every input would cost more than the inputs do. So a copy is made every so many inputs, and the
inputs since then are remembered: going back is decoding the copy and handling them again, with their effects dropped.
"""

import random
from typing import Any

import msgspec

from agents.base import Agent, Effect, Publish
from schemas.errors import FAULTS
from schemas.wire import seal

# Inputs between copies: a copy of a fleet's state (some 100 us) is spread over so many; handling them again takes a few ms.
EVERY = 256
# Bytes of a copy for each input until the next one, so that copying costs an input some 2 us however large the state is:
# that of 10,000 nodes has 4 to 10 MB.
BYTES_EACH = 1024
# Inputs between copies at most: handling so many again takes some 100 ms.
MOST = 8192


def seal_effects(effects: list[Effect], source: str, incarnation: int, sequence: int, at: float) -> int:
    """Give every message to be published its envelope; gives the sequence after the last one.

    Ids depend on nothing but the order of a life's inputs, so that an input handled again gives the same ones. A message
    object that was sealed before (a core publishes something that it keeps) is copied first.
    """
    for place, effect in enumerate(effects):
        if type(effect) is Publish:
            sequence += 1
            message = effect.message
            if message.id:
                message = msgspec.structs.replace(message)
                effects[place] = Publish(message=message, cause=effect.cause, first=effect.first)
            seal(message, id=f"{source}:{incarnation}:{sequence}", cause=effect.cause, at=at, source=source)
    return sequence


class Undo:
    """The way back for one core. State is `agent.state`, which serialises, and the generator `agent.rng`."""

    def __init__(self, agent: Agent[Any], source: str) -> None:
        self._agent = agent
        self._source = source
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(type(agent.state))
        self._since: list[tuple[msgspec.Struct, float, str, int, int]] = []
        self._copy()

    def remember(self, event: msgspec.Struct, now: float, cause: str, incarnation: int, sequence: int) -> None:
        """Note an input that was handled well, with the host's sequence before it."""
        self._since.append((event, now, cause, incarnation, sequence))
        if len(self._since) >= self._every:
            self._copy()

    def restore(self) -> None:
        """Bring the state back to what it was after the last input that was remembered."""
        agent = self._agent
        agent.state = self._decoder.decode(self._state)
        agent.rng.setstate(self._random)
        for event, now, cause, incarnation, sequence in self._since:
            seal_effects(agent.handle(event, now, cause), self._source, incarnation, sequence, now)

    def _copy(self) -> None:
        self._state = msgspec.msgpack.encode(self._agent.state)
        self._every = min(MOST, max(EVERY, len(self._state) // BYTES_EACH))
        self._random = self._agent.rng.getstate()
        self._since.clear()


def pack_random(rng: random.Random) -> bytes:
    """A generator's state as bytes."""
    return msgspec.msgpack.encode(rng.getstate())


def unpack_random(rng: random.Random, data: bytes) -> None:
    """Bring a generator to a state that `pack_random` gave. Raises `ValueError` for anything else."""
    try:
        version, numbers, gauss = msgspec.msgpack.decode(data, type=tuple[int, tuple[int, ...], float | None])
        rng.setstate((version, numbers, gauss))
    except (*FAULTS, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"no state of a generator: {error}") from error

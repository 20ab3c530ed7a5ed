"""Where a node's own steps began, when its model has been averaged with others' in their midst.

Now and then all nodes of a site set their models to the anchor plus the average of what each one's own steps have added to
it so far: to what the round's end would make of them. What a node offers at that end is still what its own steps added,
wherever it took them: working parameters less an `Origin` that goes along with each average. So no difference contains
another node's steps, and whichever is late, lost or counted alone, none counts twice.
"""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from runners.jobs.anchor import Anchor
from runners.jobs.live import Live
from runners.jobs.moving import Follow
from runners.jobs.vectors import chunks


class Origin:
    """As long as the model's vector: the anchor, and what averages have added to the model since the steps began."""

    def __init__(self, anchor: Anchor) -> None:
        self.layout, self.values = anchor.layout, anchor.values.clone()

    def adopt(self, anchor: Tensor, added: Tensor, live: Live) -> None:
        """Set a model to an anchor's values plus an average; what its own steps have added stays as it was."""
        for place in chunks(live.numel()):
            before = live[place].clone()  # of a model in float32 on the CPU it is the model itself
            live.add(place.start, anchor[place] + added[place] - before)
            self.values[place].add_(live[place].sub(before))
        live.close()

    @contextmanager
    def following(self, others: AbstractContextManager[Follow]) -> Iterator[Follow]:
        """While an anchor moves in the midst of steps: what moves the origin with the model, which `others` moves."""
        with others as move:

            def follow(start: int, values: Tensor, shift: Tensor) -> None:
                here = self.values[start : start + len(values)]
                if start < self.layout.parameters:
                    here.add_(shift)
                else:
                    here.copy_(values)
                move(start, values, shift)

            yield follow


def sign_of(digest: str) -> tuple[int, ...]:
    """An anchor's digest as four numbers, for the header of a group's operation."""
    return struct.unpack("<4q", hashlib.sha256(digest.encode()).digest())

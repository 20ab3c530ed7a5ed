"""With `sync = "overlap"` or `"async"`: the working parameters while steps go on and differences travel.

They are the anchor, plus the node's own difference that travels, plus what was done since. When the average comes, the own
difference is replaced by it and the rest stays: working + (new anchor - old anchor) - own difference.

It is the exact difference that is taken out, not the one that the others decode: what encoding lost is owed, and comes with
the next difference; in the working parameters too, it would count twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from runners.jobs.anchor import Anchor
from runners.jobs.fragments import Fragment, Fragments
from runners.jobs.layout import Layout
from runners.jobs.live import Live
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.moving import Follow


@dataclass(frozen=True, slots=True)
class Travelling:
    """An own difference that no applied average has replaced yet."""

    round: int
    fragment: Fragment
    difference: Tensor


class Overlap:
    """What the model holds beyond the anchor. The model is the working parameters for as long as the process lives."""

    def __init__(self, trainer: LocalTrainer, fragments: Fragments) -> None:
        self._trainer = trainer
        self._fragments = fragments
        self._travelling: Travelling | None = None
        self._begun = False

    def begin(self, anchor: Anchor, round_: int) -> None:
        """Steps for a round: from where the last ones ended, or from the anchor if they came to nothing."""
        refused = self._travelling is not None and self._travelling.round >= round_
        if refused or not self._begun:
            self._trainer.load(anchor)
            self._travelling, self._begun = None, True

    def take(self, anchor: Anchor, round_: int) -> Tensor:
        """What was done to the round's fragment since its last turn; flat float32 on the CPU."""
        fragment = self._fragments.of(round_)
        difference = fragment.read(anchor.layout, self._trainer.model).sub_(fragment.of(anchor.values))
        if anchor.version < round_:  # else the round is over, and the average is in the anchor already
            self._travelling = Travelling(round_, fragment, difference)
        else:
            fragment.add(difference.neg(), anchor.layout, self._trainer.model)
        return difference

    @contextmanager
    def following(self, layout: Layout, version: int) -> Iterator[Follow | None]:
        """While the anchor moves to a version: what moves the working parameters with it, and takes out the own part."""
        if not self._begun:
            yield None
            return
        live, own = Live(layout, self._trainer.model), self._travelling
        if own is not None and version < own.round:
            own = None

        def follow(start: int, values: Tensor, shift: Tensor) -> None:
            if own is not None:
                own.fragment.take_out(own.difference, start, shift)
            live.add(start, shift)

        yield follow
        live.close()
        if own is not None:
            self._travelling = None

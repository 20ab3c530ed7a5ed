"""With `sync = "overlap"` or `"async"`: the working parameters while steps go on and differences travel.

They are the anchor, plus the node's own difference that travels, plus what was done since. When the average comes, the own
difference is replaced by it and the rest stays: working + (new anchor - old anchor) - own difference.

The own difference is in them as the others decode it, so that its bytes are all that has to be kept of it. What encoding
lost is owed, and comes with the next difference; in the working parameters too, it would count twice.
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
from runners.jobs.vectors import Combination, Difference, Vector


@dataclass(frozen=True, slots=True)
class Travelling:
    """An own difference that no applied average has replaced yet."""

    round: int
    fragment: Fragment
    difference: Vector
    """As the others decode it."""


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

    def difference(self, anchor: Anchor, round_: int) -> Vector:
        """What was done to the round's fragment since its last turn, read out of the model where it is looked at."""
        read = self._fragments.of(round_).read
        return Difference(read(Live(anchor.layout, self._trainer.model)), read(anchor.values))

    def sent(self, anchor: Anchor, round_: int, sent: Vector) -> None:
        """The difference is encoded: from now on it is in the working parameters as the others decode it.

        Not at all if its round is over: then the average is in the anchor already.
        """
        fragment, done = self._fragments.of(round_), self.difference(anchor, round_)
        travels = anchor.version < round_
        if travels:
            self._travelling = Travelling(round_, fragment, sent)
        shift = Difference(sent, done) if travels else Combination((-1.0,), (done,))
        fragment.add(shift, anchor.layout, self._trainer.model)

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

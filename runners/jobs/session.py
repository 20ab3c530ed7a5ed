"""What torch holds of a job on one node: the anchor, the working model, what encoding still owes.

All methods block and run one at a time in one worker thread; nothing here knows of the bus.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

import torch
from torch import Tensor

from agents.reducer.policy import FAINT
from agents.reducer.works import Treated
from runners.jobs.aggregating import Aggregator, Gathered, Measured
from runners.jobs.anchor import Anchor
from runners.jobs.codecs import Decoded, encoded_size
from runners.jobs.error_feedback import ErrorFeedback
from runners.jobs.fragments import Fragments
from runners.jobs.gradient_steps import SharedOptimizer, mean_gradient
from runners.jobs.heap import give_back
from runners.jobs.live import Live
from runners.jobs.local_steps import LocalTrainer, StepResult, trainer_for
from runners.jobs.meeting import Origin
from runners.jobs.moving import Follow, Outer, step, take_over
from runners.jobs.overlap import Overlap
from runners.jobs.pieces import Assembled, Pieces, ShardBytes, WrongShape
from runners.jobs.snapshots import model_to_bytes, shared_names, snapshot_from_bytes, snapshot_to_bytes
from runners.jobs.spec import JobSpec
from runners.jobs.vectors import Joined, Section, Vector, length, whole
from runners.jobs.verifying import verify
from runners.workload_source import source_hash
from schemas.aggregation import Aggregation
from schemas.fragments import parts_of
from schemas.jobs import AverageEncoding, Encoding
from schemas.lengths import most_rounds
from schemas.shards import pieces_of
from schemas.verification import Fingerprint

T = TypeVar("T")

_COMPLAINT = 300  # characters of an error that are worth a line


@dataclass
class Session:
    """One job's tensors on one node."""

    spec: JobSpec
    trainer: LocalTrainer
    anchor: Anchor
    digest: str
    owed: ErrorFeedback
    owed_average: ErrorFeedback
    fragments: Fragments
    """What rounds exchange: everything, but for jobs with `sync = "overlap"`."""
    aggregators: dict[int, Aggregator] = dataclasses.field(default_factory=dict)
    """By the fragment that they average."""
    overlap: Overlap | None = None
    """With `sync = "overlap"` or `"async"`: what the model holds beyond the anchor."""
    shared: SharedOptimizer | None = None
    """With `sync = "step"`: what moves the anchor; the nodes' own optimizers then have nothing to do."""
    training: bool = False
    """Whether the model is in the midst of local steps."""
    base: Anchor | None = None
    """The anchor that gradients under way are taken at."""
    origin: Origin | None = None
    """Where its steps began, once the model was averaged with others' in their midst; before that it is the anchor."""
    passes: int = 0
    """Microbatches whose gradients the model has gathered."""

    @classmethod
    def load(cls, spec: JobSpec, checkpoint: bytes | None = None) -> "Session":
        """Import the workload, build the model from the job's seed, or from a checkpoint of an earlier job.

        Raises:
            WorkloadError: it can't be imported or is none.
            SnapshotError, LayoutMismatch: the checkpoint is damaged or of another model.
            InexactOptimizer: with `sync = "step"`, an optimizer that can't be the same on every node.
        """
        request, trainer = spec.request, trainer_for(spec)
        anchor = trainer.anchor(0)
        shared = SharedOptimizer(trainer.workload.optimizer, anchor.layout) if request.sync == "step" else None
        if checkpoint is not None:
            stored = snapshot_from_bytes(checkpoint)
            anchor.layout.require(stored.layout)
            state = stored.optimizer
            if shared is None or (state is not None and not shared.fits(state)):
                state = None  # another optimizer's: this one begins afresh
            # Plain averaging would carry it along, in memory and in checkpoints, to whoever resumes with Nesterov later.
            momentum = stored.momentum if request.outer == "nesterov" else None
            anchor = Anchor(0, stored.layout, stored.values, momentum, stored.constants, state)
            trainer.load(anchor, constants=True)
        count, statistics = anchor.layout.count, anchor.layout.count - anchor.layout.parameters
        fragments = Fragments(anchor.layout, parts_of(request, anchor.layout.parameters), most_rounds(request))
        owed = ErrorFeedback(count, statistics)
        session = cls(spec, trainer, anchor, anchor.digest(), owed, ErrorFeedback(count), fragments, shared=shared)
        session.overlap = Overlap(trainer, fragments) if request.sync in ("overlap", "async") else None
        return session

    @property
    def code(self) -> str:
        """What this node runs, as `TrainerReady.code` says it; a build of torch for another device is the same torch."""
        spec, bundle = self.spec, self.spec.request.bundle
        app_dir = Path(spec.app_dir) if spec.app_dir else None
        source = bundle.digest if bundle else source_hash(spec.request.workload, app_dir)
        return f"source={source} torch={torch.__version__.partition('+')[0]} shoal={version('shoal')}"

    # Local steps.

    def begin_steps(self, round_: int = 0) -> str:
        """Load the anchor into the model, or go on from what is there (`sync` `overlap` and `async`); gives its digest."""
        if self.overlap is not None:
            self.overlap.begin(self.anchor, round_)
        else:
            self.trainer.load(self.anchor)
        self.training, self.origin = True, None
        if self.shared is not None:
            self.trainer.clear_gradients()
            self.base, self.passes = self.anchor, 0
        return self.digest

    def step(self, microbatch: int) -> StepResult:
        """One optimizer step; with `sync = "step"` one gradient, which waits for everybody's."""
        if self.shared is None:
            result = self.trainer.step(microbatch)
            self.trainer.clear_gradients()  # between steps there is room in their place for what is sent and received
            return result
        result = self.trainer.gradient(microbatch)
        self.passes += 1
        return result

    def added(self) -> tuple[str, Tensor]:
        """What this node's own steps have added so far, and the digest of the anchor that they began at."""
        return self.digest, whole(self._own())

    def adopt(self, digest: str, average: Tensor) -> bool:
        """Go on from the anchor of this digest plus an average of what nodes added; False where the anchor has moved on."""
        if digest != self.digest or not self.training:
            return False
        if self.origin is None:
            self.origin = Origin(self.anchor)
        self.origin.adopt(self.anchor.values, average, Live(self.anchor.layout, self.trainer.model))
        return True

    def _own(self) -> Vector:
        return self.trainer.delta(self.anchor if self.origin is None else self.origin)

    def difference(self, encoding: Encoding, round_: int = 0) -> bytes:
        """End the local steps: what they added, or their gradient, encoded, with what earlier encodings owed."""
        payload = self.owed.encode_part(self._ended(round_), encoding, self.fragments.of(round_))
        self._sent(round_, [payload])
        return payload

    def difference_in_pieces(
        self,
        encoding: Encoding,
        round_: int,
        first: Sequence[int] = (),
        made: Callable[[int, bytes], None] | None = None,
    ) -> list[bytes]:
        """The same, each piece by itself; see `Pieces.encode`."""
        payloads = self.pieces_of(round_).encode(self._ended(round_), encoding, self.owed, first, made)
        self._sent(round_, payloads)
        return payloads

    def take_back(self, payloads: Sequence[bytes], round_: int) -> None:
        """A difference was made and is not sent, since its steps were given up: what is owed of earlier ones is in it.

        With `sync = "step"` a gradient of an older version is of no use; with `overlap` and `async` the working parameters
        go on from it.
        """
        if self.shared is None and self.overlap is None:
            self.pieces_of(round_).take_back(payloads, self.owed)

    def _ended(self, round_: int) -> Vector:
        self._make_room()
        if self.overlap is not None:
            return self.overlap.difference(self.anchor, round_)
        self.training = False
        if self.base is None:
            return self._own()
        return mean_gradient(self.trainer.model, self.base, self.passes)

    def _sent(self, round_: int, payloads: Sequence[bytes]) -> None:
        if self.overlap is not None:
            self.overlap.sent(self.anchor, round_, Joined([Decoded(payload) for payload in payloads]))
        if self.base is not None:
            self.trainer.clear_gradients()
            self.base = None

    @property
    def cut(self) -> int:
        """Pieces that the job's vectors are cut in; 1: they travel whole."""
        return pieces_of(self.spec.request, self.anchor.layout.parameters)

    def pieces_of(self, round_: int) -> Pieces:
        """How the vector of a round is cut."""
        return Pieces(self.fragments.of(round_), self.cut)

    # The anchor.

    def apply(self, number: int, payload: bytes | memoryview | Sequence[ShardBytes]) -> str | None:
        """Take the outer step (or the optimizer's) to version `number` with the encoded average; gives the digest.

        None if it isn't next.
        """
        if number != self.anchor.version + 1:
            return None
        request = self.spec.request
        if isinstance(payload, bytes | memoryview):
            average: Decoded | Assembled = self.decoded(payload, number)
        else:
            average = self.pieces_of(number).together(payload)
        if self.shared is not None:
            return self._now(self.shared.step(self.anchor, whole(average)))
        average.check()  # an anchor that has moved half the way is none
        how = Outer(request.outer, request.outer_lr, request.outer_momentum)
        with self._following(number) as follow:
            return self._now(step(self.anchor, average, how, self.fragments.of(number).ranges, follow))

    def replace(self, snapshot: bytes | memoryview) -> tuple[int, str]:
        """Take over an anchor from elsewhere; gives version and digest. Local steps under way keep what they added."""
        fetched = snapshot_from_bytes(snapshot)
        self.anchor.layout.require(fetched.layout)
        if fetched.version >= self.anchor.version:
            with self._following(fetched.version) as follow:
                # With gradients the old one stays as it is: those under way were taken there.
                self._now(fetched if self.shared is not None else take_over(self.anchor, fetched, follow))
        return self.anchor.version, self.digest

    def renumber(self, version: int) -> str:
        """Call the anchor another version: what lies between is lost to everybody. Gives the digest."""
        new = dataclasses.replace(self.anchor, version=version)
        with self._following(version) as follow:
            return self._now(take_over(self.anchor, new, follow))

    def _following(self, version: int) -> AbstractContextManager[Follow | None]:
        """What moves the model while the anchor moves to a version."""
        if self.overlap is not None:
            return self.overlap.following(self.anchor.layout, version)
        if self.training and self.shared is None:  # a gradient belongs to the anchor that it is taken at
            following = self.trainer.following(self.anchor.layout)
            return following if self.origin is None else self.origin.following(following)
        return nullcontext()

    def _now(self, new: Anchor) -> str:
        self.anchor = new
        self.digest = new.digest()
        return self.digest

    def snapshot(self) -> tuple[int, bytes]:
        """The anchor whole: its version and its bytes."""
        return self.anchor.version, snapshot_to_bytes(self.anchor)

    def checkpoint(self) -> bytes:
        """The anchor whole, such that plain torch goes on from it, too: with all the names that a state dict asks for."""
        return snapshot_to_bytes(self.anchor, shared_names(self.trainer.model))

    # Reducing.

    def decoded(self, payload: bytes | memoryview, round_: int = 0) -> Decoded:
        """The difference for a round that a payload holds; looking at it raises a CodecError where it isn't finite.

        Raises:
            CodecError: damaged.
            WrongShape: of another model.
        """
        delta, wanted = Decoded(payload), self.fragments.of(round_).layout.count
        if delta.numel() != wanted:
            raise WrongShape("a difference", delta.numel(), wanted)
        return delta

    def is_faint(self, delta: Vector, round_: int) -> bool:
        """Whether a difference for a round is so small next to the anchor that rounding alone may make it twice.

        Raises:
            CodecError: it isn't finite. All of it is looked at.
        """
        there = [Section(self.anchor.values, *ends) for ends in self.fragments.of(round_).ranges]
        return math.hypot(*self.aggregator(round_).lengths(delta)) <= FAINT * length(Joined(there))

    def largest(self, round_: int = 0) -> int:
        """Bytes that a difference for a round may take: no encoding takes more than float32."""
        return encoded_size(self.fragments.of(round_).layout.count, "float32")

    def average(
        self,
        gathered: Sequence[Gathered],
        method: Aggregation,
        encoding: AverageEncoding,
        round_: int = 0,
        extent: float = 1.0,
    ) -> tuple[bytes, tuple[Treated, ...], float]:
        """A round's average times `extent`, encoded once for everybody; how each part counted; the norm of the average's
        parameters."""
        fragment = self.fragments.of(round_)
        average, treated = self.aggregator(round_).aggregate(gathered, method)
        measured = Measured(average, fragment.layout.parameters)
        payload = self.owed_average.encode_part(measured.times(extent), encoding, fragment)
        return payload, treated, measured.norm

    def aggregator(self, round_: int) -> Aggregator:
        """Who averages what a round exchanges: it remembers the rounds before."""
        turn, layout = self.fragments.turn(round_), self.fragments.of(round_).layout
        if turn not in self.aggregators:
            self.aggregators[turn] = Aggregator(layout.parameters, layout.count)
        return self.aggregators[turn]

    # Looking after it.

    def _make_room(self) -> None:
        give_back(4 * self.anchor.layout.count)

    def at_anchor(self) -> tuple[float, bytes]:
        """Held-out loss of the anchor, and the model with its parameters as plain safetensors."""
        return self._with_anchor(lambda: (self.trainer.validate(), self._model_bytes()))

    def validate(self) -> float:
        """Held-out loss of the anchor, without disturbing local steps under way."""
        return self._with_anchor(self.trainer.validate)

    def verify(self, version: int) -> Fingerprint | None:
        """The gradient that all compute at the anchor of a version; None where the anchor has moved on, or it can't be."""
        if version != self.anchor.version:
            return None
        request = self.spec.request
        try:
            return self._with_anchor(lambda: verify(self.trainer, request.seed, version, request.microbatch))
        except Exception as error:  # a model that can't do it in evaluation mode, or no memory to spare: it trains on
            print(f"arithmetic can't be verified here ({type(error).__name__}: {shorten(str(error), _COMPLAINT)})")
            return None

    def _model_bytes(self) -> bytes:
        about = {"job": self.spec.job, "workload": self.spec.request.workload, "version": str(self.anchor.version)}
        return model_to_bytes(self.trainer.model, about)

    def _with_anchor(self, look: Callable[[], T]) -> T:
        layout, model = self.anchor.layout, self.trainer.model
        self._make_room()
        working = layout.flatten(model) if self.training else None
        self.trainer.load(self.anchor)
        try:
            return look()
        finally:
            if working is not None:
                layout.unflatten(working, model)

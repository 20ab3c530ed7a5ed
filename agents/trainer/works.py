"""The heavy work that a trainer asks of its host, and how it ends. Tensors stay there: the core knows names and hashes."""

import msgspec

from agents.effects import Work
from agents.inputs import Result
from schemas.ids import NodeId
from schemas.jobs import Encoding
from schemas.shards import Piece
from schemas.training import Average
from schemas.verification import Fingerprint


class Meetings(msgspec.Struct, frozen=True, kw_only=True):
    """Averages inside a site in the midst of local steps: between two of the parts that these are cut into."""

    epoch: int
    """The site's group."""
    parts: int
    within: float
    """Seconds that this node waits for the others, each time."""
    averaging_within: float
    """Seconds that the average itself may take then."""


class Met(msgspec.Struct, frozen=True, kw_only=True):
    """How such averages went."""

    count: int = 0
    seconds: float = 0.0
    """One took, once all were there; the median."""
    waited: float = 0.0
    """The longest wait for the others, in seconds."""


class LocalRound(Work, frozen=True, kw_only=True):
    """Take local steps from the present anchor, encode the difference, keep it as tensor `delta/<round>`."""

    round: int
    microbatch: int
    steps: int
    encoding: Encoding
    streams: int
    going_on: bool = False
    """With `sync = "overlap"` or `"async"`: go on from where the last steps ended, and keep no difference until
    `TakeDifference`."""
    meetings: Meetings | None = None
    """With the other nodes of its site; None: the steps are taken without looking at anybody."""
    ahead: tuple[int, ...] = ()
    """Pieces of the difference to send as soon as they are encoded, while the next one is: what `Stream` is to send, as far
    as that is known."""


class StepTaken(Result, frozen=True, kw_only=True):
    """A local round is getting on (posted now and then, not for every step)."""

    round: int
    step: int
    steps: int


class LocalRoundDone(Result, frozen=True, kw_only=True):
    """The difference is kept under `key`; `samples` were trained on."""

    round: int
    base_digest: str
    samples: int
    steps: int
    microbatch: int
    loss: float
    seconds: float
    encoding: Encoding
    key: str
    size: int
    digest: str
    pieces: tuple[Piece, ...] = ()
    """Where the job's vectors are cut: what is kept as tensors `delta<number>/<key>`."""
    met: Met = Met()


class StepsDone(Result, frozen=True, kw_only=True):
    """A local round's steps are taken; its difference is made once the anchor is near enough."""

    round: int
    samples: int
    steps: int
    microbatch: int
    loss: float
    seconds: float
    encoding: Encoding
    met: Met = Met()


class TakeDifference(Work, frozen=True, kw_only=True):
    """Encode what was done since the last difference, keep it as tensor `delta/<round>`; ends in `LocalRoundDone`."""

    done: StepsDone
    ahead: tuple[int, ...] = ()
    """As `LocalRound.ahead`."""


class Stream(Work, frozen=True, kw_only=True):
    """Send a kept tensor once to whoever follows its kind."""

    kind: str
    name: str
    pieces: tuple[int, ...] = ()
    """Send these pieces of it instead, side by side."""


class Drop(Work, frozen=True, kw_only=True):
    """Forget kept tensors that nobody will ask for again, named `kind/name`."""

    tensors: tuple[str, ...]


class HoldAverage(Work, frozen=True, kw_only=True):
    """Get a round's average from a holder and keep it."""

    round: int
    average: Average


class AverageHere(Result, frozen=True, kw_only=True):
    """A round's average is here in whole."""

    round: int
    digest: str
    bytes: int
    seconds: float
    """Time on the way, for the link's download rate; 0 if nothing travelled."""
    streams: int = 1


class ApplyAverage(Work, frozen=True, kw_only=True):
    """Get a round's average if it isn't here, decode it, take the outer step; rebase what is being trained on."""

    round: int
    average: Average


class Applied(Result, frozen=True, kw_only=True):
    """The anchor is at `version` now."""

    version: int
    digest: str
    seconds: float


class CatchUp(Work, frozen=True, kw_only=True):
    """Replace the anchor by a present one: from one of the donors, in this order, else from the last checkpoint."""

    version: int
    """At least this one, if somebody has it."""
    donors: tuple[NodeId, ...]
    accept_loss: bool = False
    """Where nobody has it any more: go on from the newest that there is, under the number of this version."""


class AnchorFetched(Result, frozen=True, kw_only=True):
    """The anchor was replaced."""

    version: int
    digest: str
    donor: str
    bytes: int
    seconds: float
    lost: int = 0
    """Updates that nobody holds any more, and that are not in it."""


class FetchFailed(Result, frozen=True, kw_only=True):
    """`HoldAverage`, `ApplyAverage` or `CatchUp` came to nothing."""

    work: str
    round: int
    reason: str


class ModelBuilt(Result, frozen=True, kw_only=True):
    """First result of a job process: the workload is loaded, the anchor of version 0 is there."""

    digest: str
    parameters: int
    device: str
    code: str = ""
    """What this node runs: `TrainerReady.code`."""


class Validate(Work, frozen=True, kw_only=True):
    """Compute the held-out loss of the anchor of a version."""

    round: int


class ValidationDone(Result, frozen=True, kw_only=True):
    """The held-out loss of a version."""

    round: int
    loss: float
    seconds: float


class VerifyGradient(Work, frozen=True, kw_only=True):
    """Compute the gradient that all nodes compute at the anchor of a version; nothing comes of it where that can't be."""

    version: int


class GradientComputed(Result, frozen=True, kw_only=True):
    """That gradient."""

    version: int
    gradient: Fingerprint


class StoreAnchor(Work, frozen=True, kw_only=True):
    """Put the anchor into the object store: a checkpoint, and at the end the model in plain safetensors."""

    round: int
    final: bool


class AnchorStored(Result, frozen=True, kw_only=True):
    """It is in the object store under `name`."""

    round: int
    final: bool
    name: str
    size: int
    digest: str
    loss: float | None = None


class StoreFailed(Result, frozen=True, kw_only=True):
    """`StoreAnchor` came to nothing."""

    round: int
    final: bool
    reason: str


class FreeMemory(Work, frozen=True, kw_only=True):
    """Give memory that nothing needs back to the system and to the accelerator."""


class Quit(Work, frozen=True, kw_only=True):
    """End the process: this node can't take part, and starting again won't help."""

    reason: str

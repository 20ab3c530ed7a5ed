"""What `report.json` holds: a training job as it went, with what was adapted, what broke, and how long that took.

Times named `..._seconds` or `at` are seconds since the job was submitted, by the clocks of those who spoke.
"""

import msgspec

from schemas.appraisal import NodeValue

VERSION = 1


class RoundReport(msgspec.Struct, frozen=True, kw_only=True):
    """One closed round."""

    round: int
    loss: float
    """Mean training loss, weighted by samples."""
    at: float
    """When it closed."""
    seconds: float
    """From its opening to its closing."""
    samples: int
    nodes: tuple[str, ...]
    """Whose contributions it counted."""
    late: int
    """Contributions that were made for an earlier round."""
    missing: tuple[str, ...]
    """Expected, not there by the deadline."""
    reducer: str
    term: int
    """0 for the first reducer of the round; each that took over added 1."""


class ValidationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The held-out loss after a round."""

    round: int
    loss: float
    at: float


class GradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A link's quality from here on."""

    round: int
    at: float
    quality: str
    score: float
    """0 to 100."""
    latency_ms: float
    loss: float
    """Fraction of probes lost or retransmitted."""


class NodeReport(msgspec.Struct, kw_only=True):
    """One node's part."""

    node: str
    host: str = ""
    accelerators: tuple[str, ...] = ()
    emulated_link: str = ""
    """Profile that its link was emulated with at its start; empty: a real link."""
    slowdown: float = 1.0
    """Above 1: emulated slowness."""
    step_time_ms: float = 0.0
    """Above 0: steps padded to an emulated speed."""
    samples: int = 0
    """Samples of its contributions that were counted."""
    steps: int = 0
    rounds: int = 0
    """Contributions that were counted."""
    late: int = 0
    """Of those, how many in a later round than they were made for."""
    missed: int = 0
    """Rounds that closed without it although it was expected."""
    bytes_up: int = 0
    """Contributions and averages that it sent, each counted once."""
    mean_step_ms: float = 0.0
    failures: int = 0
    """Times its job process failed."""
    value: NodeValue | None = None
    """What it was worth to the job over the last rounds that it was appraised by; null where it never was."""
    quality: list[GradeReport] = msgspec.field(default_factory=list)


class Adaptation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was decided anew while the job ran."""

    round: int
    """The round that was open then; 0 before the first."""
    at: float
    what: str
    reason: str
    cause: str
    """Id of the event that led to it; `shoal why` goes on from there. Empty: a clock or a person."""
    because: str = ""
    """That event in words, where the history has it."""
    by: str = ""
    id: str = ""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that broke, or was broken on purpose."""

    at_round: int
    """The round that it befell: the open one, or between two the next; 0 before the first."""
    at: float
    what: str
    node: str
    """The node it befell; empty for agents and the server."""
    emulated: bool
    """An emulated link did it on order."""
    seconds_to_recover: float | None
    """From its beginning to the closing of the round that was open, or the next; for an agent, until it was up again.
    Null: the job ended without."""
    seconds_until_back: float | None = None
    """Of a lost or failed node: until a contribution of its was counted again. Null: it wasn't."""
    detail: str = ""
    id: str = ""


class Report(msgspec.Struct, kw_only=True):
    """A training job from its submission to its end."""

    version: int = VERSION
    job: str
    workload: str
    state: str
    """`completed`, `failed`, `cancelled`; of a job that goes on, where it stands."""
    reason: str
    rounds: int
    """Closed."""
    rounds_asked: int
    loss_start: float | None
    """Training loss of the first closed round; null where none closed."""
    loss_end: float | None
    """Training loss of the last closed round."""
    validation_start: float | None = None
    validation_end: float | None = None
    samples: int = 0
    wall_seconds: float
    """From the submission to the end."""
    training_seconds: float
    """From the opening of the first round to the closing of the last."""
    seconds_per_round: float
    """Mean of training_seconds over the closed rounds; 0 where none closed."""
    adaptation_share: float
    """CPU seconds of the adapting agents over wall seconds, as the optimizer measured it last; 0 where it told nothing."""
    emulated: list[str] = msgspec.field(default_factory=list)
    """What was not real: emulated links and speeds, in words. Empty: all of it was."""
    model: str = ""
    """Name of the final model in the object store; empty where there is none."""
    model_digest: str = ""
    """SHA-256."""
    nodes: list[NodeReport]
    by_round: list[RoundReport]
    validation: list[ValidationReport]
    adaptations: list[Adaptation]
    faults: list[Fault]

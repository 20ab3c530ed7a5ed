"""What an operator may set of the predictor (`[predictor]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Part = Annotated[float, Meta(ge=0, le=1)]


class PredictorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults. Times in seconds."""

    horizon_seconds: Positive = 120.0
    """How far ahead faults are foreseen: long enough to take a node out of its jobs in good order and give its work to
    others, short enough that a trend may be carried on."""
    block_seconds: Positive = 10.0
    """Of the means that trends are made of: ten heartbeats."""
    heat_c: Positive = 85.0
    """Degrees Celsius at which a machine is too hot: where nodes pause (`max_temperature_c` in `[node]`)."""
    disk_part: Part = 0.98
    """Of a disk that is in use when it is as good as full: file systems keep some per cent for root."""
    lost_part: Part = 0.5
    """Of probes lost that a link is as good as broken at."""
    slow_part: Part = 0.5
    """Of its usual speed at which a node is called slow, as by the failure detector."""
    ecc_errors: Positive = 100.0
    """Corrected errors of an accelerator's memory in one block that are taken for a failure to come: healthy ones have some
    in a year."""

    threshold: Part = 0.7
    """Chance from which a fault is told, until its own precision and recall say better."""
    least_level: Part = 0.6
    """Of what is too much, under which nothing is told, however steep the trend: processes that start take memory fast, and
    machines that are put to work get warm."""
    relief: Part = 0.6
    """Part of the threshold under which it is no longer expected."""
    held_out: Part = 0.2
    """Part of what is told that nothing is done about: a fault that was prevented says nothing of the prediction."""
    beta: Positive = 0.5
    """Of the F-measure by which the threshold is chosen: precision counts twice as much as recall, since a node that is
    spared for nothing is work lost, and a fault that comes unforeseen is healed all the same."""
    least_faults: Annotated[int, Meta(ge=1)] = 5
    """Outcomes with a fault before the threshold follows from them."""
    memory: Annotated[float, Meta(gt=0, le=1)] = 0.995
    """What an outcome still counts one outcome later: some two hundred are remembered."""
    judged_every: Annotated[int, Meta(ge=1)] = 50
    """Outcomes of a kind between two words on its precision and recall."""

    learn_after_seconds: Positive = 600.0
    """From the start to the first look at the history."""
    learn_every_seconds: Positive = 21600.0
    """Between two: a fit takes a second of a processor, and history grows slowly."""
    learn_days: Positive = 30.0
    """Of history that are looked at: machines and jobs change."""
    model_faults: Annotated[int, Meta(ge=2)] = 10
    """Faults in the history before a model is fitted: ten for three figures, less says more about chance."""

    nodes_kept: Annotated[int, Meta(ge=1)] = 4096
    """Nodes that are followed; a node takes some 2 kB."""

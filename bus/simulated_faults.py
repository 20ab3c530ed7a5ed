"""What goes wrong in a simulation, as one struct: with a seed it is the whole schedule of faults."""

import msgspec

from schemas.errors import ShoalError


class UnknownFaults(ShoalError):
    """No set of faults has this name. Attribute: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no set of faults is called {name!r}: use one of {', '.join(PRESETS)}")
        self.name = name


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of faults. Fractions are of messages, each drawn on its own; rates per hour are of each participant."""

    drop: float = 0.0
    """Fraction of telemetry, probes and requests lost; of stored publishes and acknowledgements lost and sent again."""
    duplicate: float = 0.0
    """Fraction of deliveries that come a second time."""
    reorder: float = 0.0
    """Fraction of deliveries held back by up to `reorder_seconds`, overtaken by later ones."""
    reorder_seconds: float = 0.5
    partitions_per_hour: float = 0.0
    """A participant is cut off from the server for a while..."""
    partition_seconds: float = 20.0
    """...of this mean length (exponential)."""
    one_way: float = 0.3
    """Fraction of partitions that cut one direction alone."""
    crashes_per_hour: float = 0.0
    """A participant's process is killed and starts again..."""
    restart_seconds: float = 5.0
    """...after this mean time (exponential)."""
    state_stale: float = 0.0
    """Fraction of crashes after which it finds an older state: its journal's tail is gone with the machine's memory."""
    state_lost: float = 0.0
    """Fraction of crashes after which it finds nothing and reads what the streams still hold."""
    pauses_per_hour: float = 0.0
    """A participant stands still (suspended, swapped out, starved): nothing is lost, all comes late."""
    pause_seconds: float = 5.0
    """Mean length (exponential)."""
    skew_seconds: float = 0.0
    """Clocks differ from the true time by up to this much, either way."""
    drift: float = 0.0
    """Clocks run fast or slow by up to this fraction."""
    slow_workers: float = 0.0
    """Fraction of nodes whose work is slow..."""
    slow_factor: float = 4.0
    """...by up to this factor."""
    failing_works_per_hour: float = 0.0
    """Job processes that die, per node."""
    stalling_works_per_hour: float = 0.0
    """Job processes that stand still for a mean of `pause_seconds` while their node goes on, per node."""

    @property
    def quiet(self) -> bool:
        """Whether no message is ever lost, doubled or overtaken."""
        return not (self.drop or self.duplicate or self.reorder)


NONE = Faults()
LIGHT = Faults(
    drop=0.001,
    duplicate=0.001,
    reorder=0.001,
    partitions_per_hour=0.5,
    crashes_per_hour=0.5,
    pauses_per_hour=0.5,
    skew_seconds=0.5,
    drift=1e-4,
    slow_workers=0.1,
)
# What a fleet on home links and spot machines shows on a bad day.
DEFAULT = Faults(
    drop=0.01,
    duplicate=0.005,
    reorder=0.005,
    partitions_per_hour=2.0,
    crashes_per_hour=2.0,
    pauses_per_hour=2.0,
    skew_seconds=5.0,
    drift=1e-3,
    slow_workers=0.2,
    failing_works_per_hour=0.5,
)
# Worse than any real day: searches use it to find what is rare.
HEAVY = Faults(
    drop=0.05,
    duplicate=0.03,
    reorder=0.03,
    reorder_seconds=2.0,
    partitions_per_hour=10.0,
    crashes_per_hour=10.0,
    pauses_per_hour=10.0,
    pause_seconds=10.0,
    skew_seconds=60.0,
    drift=1e-2,
    slow_workers=0.4,
    failing_works_per_hour=3.0,
)
# Disks are lost too: an agent comes back with an older state, or none. What it had published is then news to it.
FORGETFUL = msgspec.structs.replace(DEFAULT, crashes_per_hour=10.0, state_stale=0.2, state_lost=0.2)
# Every kind of fault there is, none so often that rounds would not close between them: what searches for bugs use.
ALL = msgspec.structs.replace(
    DEFAULT,
    duplicate=0.01,
    reorder=0.02,
    reorder_seconds=3.0,
    state_stale=0.1,
    state_lost=0.1,
    stalling_works_per_hour=0.5,
)
PRESETS = {"none": NONE, "light": LIGHT, "default": DEFAULT, "heavy": HEAVY, "forgetful": FORGETFUL, "all": ALL}


def faults_named(name: str) -> Faults:
    """A preset by its name. Raises `UnknownFaults`."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownFaults(name) from None

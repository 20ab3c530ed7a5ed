"""What came of drills: figures, and whether the goals were met."""

import msgspec

AIM = 10.0
"""Seconds that rounds may stand still, besides one deadline: what a killed part may cost a job."""
BACK_WITHIN = 60.0
"""Seconds until the part itself is at work again; of a node most of it is importing torch on a busy machine."""
TAKEOVER = 2.0
"""Seconds within which a standby leads."""


class LossPoint(msgspec.Struct, frozen=True, array_like=True):
    """A closed round on the curve."""

    at: float
    """Seconds since the fault; negative before it."""
    round: int
    loss: float
    """Mean training loss, as the round says."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One drill. Times are in seconds, by the clock of who drilled."""

    name: str
    does: str
    """What was done, to what."""
    goal: str
    skipped: str = ""
    """Why it wasn't done; empty where it was."""
    usual: float = 0.0
    """Median time between two closed rounds before it."""
    gap: float = 0.0
    """The longest time between two closed rounds, from the fault until all was back."""
    gap_limit: float = 0.0
    back: float | None = None
    """Until the part was at work again, which may be before it goes on itself; None where it never was."""
    back_limit: float = BACK_WITHIN
    rounds: int = 0
    """Closed until it was over and all was back."""
    accepted: int = 0
    """Records of its own that the server acknowledged meanwhile..."""
    refused: int = 0
    """...and those that it refused, or that found no server in time."""
    stored_before: int = 0
    stored_after: int = 0
    """Messages in the fleet's streams."""
    lost: tuple[str, ...] = ()
    """What was accepted and is gone."""
    loss_before: float | None = None
    """Median of the rounds just before..."""
    loss_worst: float | None = None
    """...the highest of one round until all was back..."""
    loss_after: float | None = None
    """...and the median of those right after."""
    curve: tuple[LossPoint, ...] = ()
    missed: tuple[str, ...] = ()
    """Goals that were not met."""
    said: tuple[str, ...] = ()
    """What the fleet itself said of it, with the seconds since the fault."""

    @property
    def good(self) -> bool:
        """Whether all goals were met; so they were where nothing was done."""
        return not self.missed and not self.lost


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """On what the drills were done."""

    machine: str
    cpus: int
    load_before: float
    """Processes that ran or waited to, in the minute before the first drill..."""
    load_after: float
    """...and in the minute before the last one's end."""
    python: str
    shoal: str
    torch: str
    server: str
    """The NATS server's version."""
    nodes: tuple[str, ...]
    replicas: int
    """Processes of each agent at most."""


class DrillReport(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run of `shoal drill`."""

    drill: str
    command: str
    date: str
    where: Surroundings
    job: str
    own_job: bool
    """Submitted for the drill, and cancelled after it."""
    seconds: float
    results: tuple[Result, ...]
    wrong: tuple[str, ...] = ()
    """What the check of the whole job found afterwards."""
    checked: tuple[str, ...] = ()
    """What that check went through."""

    @property
    def good(self) -> bool:
        """Whether every goal was met."""
        return not self.wrong and all(result.good for result in self.results)


def judged(result: Result) -> Result:
    """The result with the goals that its figures miss."""
    missed = list(result.missed)
    if not result.skipped:
        if result.gap > result.gap_limit:
            missed.append(f"rounds stood still for {result.gap:.1f} s (goal {result.gap_limit:.1f} s)")
        if result.back is not None and result.back > result.back_limit:
            missed.append(f"back after {result.back:.1f} s (goal {result.back_limit:.1f} s)")
    return msgspec.structs.replace(result, missed=tuple(missed))

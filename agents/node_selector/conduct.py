"""Successes and failures of a node, and when they bring a quarantine."""

from agents.node_selector.policy import quarantine_seconds
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import Conduct

# A success halves the strikes: failing every second round never reaches three, failing two of three rounds does.
FORGIVEN = 0.5
# A missed round of a node that was at work all the time: slow rather than broken, so it takes six in a row.
SLOW = 0.5


def succeed(conduct: Conduct, settings: NodeSelectorSettings, *, late: int = 0) -> None:
    """A contribution came. One that is `late` rounds late makes good as many that seemed missed: they were on their way."""
    conduct.attempts = conduct.attempts * settings.memory + 1
    conduct.successes = min(conduct.successes * settings.memory + 1 + late, conduct.attempts)
    conduct.strikes = max(conduct.strikes - late, 0.0) * FORGIVEN
    if conduct.probation > 0:
        conduct.probation -= 1
        if conduct.probation == 0:
            conduct.level = max(conduct.level - 1, 0)


def fail(conduct: Conduct, settings: NodeSelectorSettings, *, strike: float = 1.0) -> None:
    """Something that was expected did not come; `strike`: how much it counts towards a quarantine."""
    conduct.attempts = conduct.attempts * settings.memory + 1
    conduct.successes *= settings.memory
    # No more than twice what is needed, or a node that can't be spared would never be forgiven.
    conduct.strikes = min(conduct.strikes + strike, 2 * settings.strikes)


def deserves_quarantine(conduct: Conduct, settings: NodeSelectorSettings) -> bool:
    """Enough strikes, or a single one on probation."""
    if conduct.quarantined:
        return False
    limit = 1.0 if conduct.probation > 0 else settings.strikes
    return conduct.strikes >= limit


def confine(conduct: Conduct, now: float, why: str, settings: NodeSelectorSettings) -> float:
    """Begin a quarantine; gives its seconds."""
    seconds = quarantine_seconds(conduct.level, settings)
    conduct.until = now + seconds
    conduct.level = min(conduct.level + 1, 32)
    conduct.why = why
    return seconds


def release(conduct: Conduct, settings: NodeSelectorSettings) -> None:
    """End a quarantine: the strikes are served, the probation begins."""
    conduct.until = 0.0
    conduct.why = ""
    conduct.strikes = 0.0
    conduct.probation = settings.probation_successes

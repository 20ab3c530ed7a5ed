"""How well the detector itself hears: who stood still or was cut off must not accuse others of silence.

After Lifeguard (Dadgar, Phillips and Currey, arXiv 1707.00788): a score of its own health, raised by late timers, lost
probes and refuted suspicions, lowered by what comes in good time, lengthens all its waits.
"""

from agents.failure_detector.settings import FailureDetectorSettings
from agents.failure_detector.state import Ears

MOST = 8
"""Of the score, as in Lifeguard."""
GOOD = 5
"""Looks in a row with nothing wrong that take a point off: what starves a process for a moment comes again."""
OUTSTANDING = 16
"""Probes that may be under way: three of them time out at a time."""


def wake(ears: Ears, now: float) -> None:
    """It begins to hear, or was deaf: silences count from now."""
    ears.since = now


def burden(ears: Ears, points: int) -> None:
    """Something spoke against its own health, or for it (less than nothing)."""
    ears.strain = min(MOST, max(0, ears.strain + points))
    if points > 0:
        ears.good = 0


def stood_still(ears: Ears, now: float, settings: FailureDetectorSettings) -> bool:
    """Whether its own timers are overdue: it was stopped, starved or suspended, and what comes in now comes late."""
    if ears.pulse_due and now - ears.pulse_due > settings.stopped_seconds:
        wake(ears, now)
        burden(ears, 2)
        ears.pulse_due = now
        return True
    return False


def pulse(ears: Ears, now: float, settings: FailureDetectorSettings) -> int:
    """Its timer has come; gives the number of the probe to send now."""
    if not stood_still(ears, now, settings):
        late = bool(ears.pulse_due) and now - ears.pulse_due > settings.late_seconds
        ears.good = 0 if late or ears.deaf else ears.good + 1
        burden(ears, 1 if not ears.good else -1 if ears.good % GOOD == 0 else 0)
    ears.pulse_due = now + settings.pulse_seconds
    ears.probes += 1
    ears.sent[ears.probes] = now
    while len(ears.sent) > OUTSTANDING:
        del ears.sent[next(iter(ears.sent))]
    return ears.probes


def heed_probe(ears: Ears, sequence: int, answered: bool, now: float) -> None:
    """A probe of the server has come back, or is lost. After a loss everybody gets their time anew."""
    sent = ears.sent.pop(sequence, None)
    if not answered:
        ears.deaf = True
        return
    if ears.deaf:
        ears.deaf = False
        wake(ears, now)
    if sent is not None:
        ears.sure_until = max(ears.sure_until, sent)


def sure(ears: Ears, since: float) -> bool:
    """Whether the server was heard on a question asked after `since`: only then does a silence since then mean anything."""
    return ears.sure_until >= since and not ears.deaf

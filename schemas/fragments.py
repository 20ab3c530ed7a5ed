"""Which part of the model a round exchanges, with `sync = "overlap"`: the same answer in all cores and processes.

Streaming DiLoCo (arXiv 2501.18512, section 2.2): the parameters are split into P fragments; a round exchanges one of them,
with all that was done to it since its last turn. The last round of a job exchanges everything, so that the final model has
the last steps of all fragments in it.
"""

from schemas.jobs import JobRequest

WHOLE = -1
"""The turn of a round that exchanges everything."""

FRAGMENT_PARAMETERS = 4_000_000
"""Parameters of a fragment where the request leaves their number open: 4 MB in int8, some seconds on a middling home link.
Smaller ones save little time, and their differences are older."""

MOST_BY_DEFAULT = 8
"""Fragments where the request leaves their number open: with more, a fragment waits for its turn for too many rounds."""


def parts_of(request: JobRequest, parameters: int) -> int:
    """Fragments of a job's model: as asked, else by its size; 1 where the job doesn't overlap, or the size isn't known."""
    if request.sync != "overlap":
        return 1
    if request.fragments is not None:
        return min(request.fragments, max(1, parameters))
    return max(1, min(MOST_BY_DEFAULT, parameters // FRAGMENT_PARAMETERS))


def turn_of(round_: int, parts: int, rounds: int) -> int:
    """The fragment that a round exchanges, 0 to parts - 1; `WHOLE` for the only one, and in the job's last round."""
    return WHOLE if parts == 1 or round_ >= rounds else round_ % parts


def turns_late(made_for: int, round_: int, parts: int) -> int:
    """How late a difference is, in turns of its fragment: one that waits for its next turn is late by one."""
    return (round_ - made_for) // parts

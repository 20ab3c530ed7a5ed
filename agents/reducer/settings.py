"""What can be set for the reducer."""

import msgspec

UNFIT_ROUNDS = 16
"""Rounds in which a node that was in a round's way reduces no shard: each further one costs up to a deadline."""


class ReducerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times and bounds of a round."""

    start_patience_seconds: float = 20.0
    """How long the first round waits for all nodes of the roster to load the model, once a quorum has."""
    default_deadline_seconds: float = 30.0
    """A round's deadline where no assignment says one."""
    takeover_grace_seconds: float = 4.0
    """How long past its deadline a reducer may be silent before the next of the list takes over; times the place in it.
    Averaging and handing the average over take a second or two."""
    prolong: float = 0.5
    """A deadline without a quorum is prolonged by this part of itself."""
    prolongations: int = 2
    """Then the round closes with whoever is there: a quorum that can't come back mustn't stop the job."""
    hold_patience_seconds: float = 5.0
    """An average that no second node holds is offered again after so long."""
    lag_tolerated: int = 2
    """Versions that a node may be behind and still be waited for: it may be applying the last one at the opening."""
    late_limit: int = 20
    """Rounds: a contribution later than this would weigh under 5 %, and is refused."""
    collect_retry_seconds: float = 1.0
    """Pause before a contribution that could not be fetched is asked for again."""
    collect_attempts: int = 4
    """Then it waits for its next offer."""
    shard_patience_seconds: float = 4.0
    """From the order to the last shard's average: a message, and averaging some hundred megabytes on a busy machine; half
    of the deadline if that is more. The standbys' patience, the whole deadline and the grace, must be longer."""
    shard_offers: int = 3
    """Times that a shard's average is offered again before its maker is taken to be out of reach."""

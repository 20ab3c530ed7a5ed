"""What can be set for the trainer."""

import msgspec


class TrainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one node's part in a job."""

    pending_differences: int = 2
    """Differences that may wait to be counted at once: one travels while the next is computed; more would be staler. Of a
    model in fragments, so many of each fragment."""
    replay_updates: int = 4
    """Missing updates that are applied one by one; further behind, a snapshot is less to fetch (an update in int8 is about
    a quarter of the float32 parameters)."""
    still_here_seconds: float = 10.0
    """A trainer that waits says so at this interval, so that waiting isn't taken for hanging."""
    site_join_seconds: float = 10.0
    """For the nodes of a site to be connected with each other: two or three times what TCP takes to give up an address."""
    retry_seconds: float = 2.0
    """Pause before a failed fetch is tried again, doubled each time up to `retry_limit_seconds`; and, not doubled, before
    what could not be stored is."""
    retry_limit_seconds: float = 30.0
    failures_until_loss: int = 4
    """Attempts to catch up, half a minute of them, before the first of the reducers' list goes on from the last checkpoint:
    everybody who held the updates since is dead, and who of them returns has lost them."""
    store_patience_seconds: float = 20.0
    """How long each further node of the reducers' list waits for the one before it to store the final model."""

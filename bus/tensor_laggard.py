"""Which of a receiver's connections is far behind the others, by the chunks that are missing.

Chunks are dealt out evenly, so that what one connection doesn't bring, all wait for. With BBR it happens that one doesn't
for long: after some losses its estimate of the link is that of a few segments a round trip, and it grows by a quarter in
eight round trips only. A new connection has the full rate after a few.
"""

from collections import Counter
from collections.abc import Collection

from bus.tensor_frames import SLOTS, slot_of

FEWEST = 4
"""Connections for one to be compared with the others."""

BEHIND = 0.5
"""Of its share of a tensor that a connection has not brought when others have brought theirs, to be called far behind."""

LEAST = 3
"""Chunks that it must lack: one or two may be a segment that was lost twice, which says nothing of what follows."""

ALONE = 0.75
"""Of what is missing that is its share: if others lack as much, it is the link or the sender."""


def laggard(missing: Collection[int], count: int, lanes: int) -> int | None:
    """The number of the connection that keeps a tensor, or None; `missing`: of the `count` chunks of a stream."""
    if lanes < FEWEST or not missing:
        return None
    lane, lacking = Counter(slot_of(index) % lanes for index in missing).most_common(1)[0]
    share = sum(slot_of(index) % lanes == lane for index in range(count))
    return lane if lacking >= max(LEAST, BEHIND * share) and lacking >= ALONE * len(missing) else None


def slots_without(lane: int | None, lanes: int) -> list[int]:
    """The slots that other connections than this one bring."""
    return [slot for slot in range(SLOTS) if lane is None or slot % lanes != lane]

"""The ids of the messages that came last, to know a second delivery by."""

from collections.abc import Iterable

# Ids kept. Second deliveries come after a lost acknowledgement (30 s) or a publisher's restart: at 100 stored messages a
# second this is 80 s of them, in about 1 MB.
CAPACITY = 8192


class Seen:
    """A bounded set of ids, the oldest given up first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._ids: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, id: str) -> bool:
        """Note an id; False where it was there already."""
        if id in self._ids:
            return False
        self._ids[id] = None
        if len(self._ids) > self._capacity:
            del self._ids[next(iter(self._ids))]
        return True

    def ids(self) -> list[str]:
        """All ids, oldest first."""
        return list(self._ids)

    def restore(self, ids: Iterable[str]) -> None:
        """Take over what `ids` gave in an earlier life."""
        self._ids = dict.fromkeys(ids)

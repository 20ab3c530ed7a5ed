"""What comes over a link at one time is one transfer, however many tensors it is."""


class Coming:
    """Averages on their way to this node: shards of one come side by side, and each alone would seem slow.

    Times are of one clock, in seconds.
    """

    def __init__(self) -> None:
        self._under_way = 0
        self._begun = 0.0
        self._last = 0.0
        self._bytes = 0

    def begin(self, at: float) -> None:
        """Another one is coming since then."""
        if not self._under_way:
            self._begun, self._last, self._bytes = at, at, 0
        self._begun = min(self._begun, at)
        self._under_way += 1

    def end(self, size: int, at: float) -> tuple[int, float]:
        """One is here since then, with `size` bytes over the link, or has failed, with none.

        Gives the bytes of all that came together and the seconds that they took, from the first one's beginning on, for the
        last one under way; (0, 0.0) for the others.
        """
        self._under_way -= 1
        if size:
            self._bytes += size
            self._last = max(self._last, at)
        return (self._bytes, self._last - self._begun) if self._bytes and not self._under_way else (0, 0.0)

"""A clock that is wrong on purpose: this process's own, from its start, as that of a machine whose clock was never set."""

import time
from collections.abc import Callable
from pathlib import Path

_right: Callable[[], float] = time.time
_by = 0.0


def skew(seconds: float) -> None:
    """From now on `time.time()` tells everything in this process a time so many seconds ahead (behind, if negative).

    `time.monotonic()`, by which deadlines go, is as it was: so it is where a machine's clock is wrong or set.
    """
    global _by  # noqa: PLW0603 - a process has one clock
    _by = seconds
    time.time = _right if seconds == 0.0 else lambda: _right() + seconds


def skewed_by() -> float:
    """Seconds that this process's clock was put ahead."""
    return _by


def skew_next(path: Path, seconds: float) -> None:
    """Have whoever starts next with `path` begin with a wrong clock, once."""
    path.write_text(repr(float(seconds)))


def skew_if_told(path: Path) -> None:
    """Begin with a wrong clock if the file says so, and remove it: the next life has the right one again."""
    try:
        told = path.read_text()
        path.unlink()
    except FileNotFoundError:
        return
    try:
        skew(float(told))
    except ValueError:
        return  # torn by a crash of who wrote it: no reason not to start

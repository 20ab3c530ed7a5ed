"""Log files of child processes: bounded, and read back for the last lines that explain an exit."""

from pathlib import Path
from typing import IO

LOG_LIMIT = 5 * 1024 * 1024  # bytes; weeks of an agent's few lines, and two of them (with the older one) are no burden
TAIL_LINES = 20  # what fits a terminal and holds a traceback's end
_TAIL_BYTES = 16 * 1024  # twenty long lines


def open_log(path: Path) -> IO[bytes]:
    """Opens `path` for appending, unbuffered; a file over `LOG_LIMIT` bytes is first moved to `<path>.1`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab", buffering=0)


def last_lines(path: Path, since: int = 0, count: int = TAIL_LINES) -> tuple[str, ...]:
    """The last `count` lines that `path` got after byte `since`; none if there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(since, size - _TAIL_BYTES)
            file.seek(start)
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ()
    lines = [line for line in text.splitlines() if line.strip()]
    return tuple(lines[-count:])

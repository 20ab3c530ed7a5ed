"""What this process uses."""

import time

import psutil  # type: ignore[import-untyped]

_PROCESS = psutil.Process()


def cpu_seconds() -> float:
    """CPU seconds of this process (all its threads, without children) since it started."""
    return time.process_time()


def resident_bytes() -> int:
    """Bytes of memory that this process has resident."""
    return int(_PROCESS.memory_info().rss)
